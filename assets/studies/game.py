"""Detective or forger: a page on which people tell photos from a codec's reconstructions while it learns.

The codec is a forger: it sees a picture once, writes a short note (the compressed file) and paints the picture again from
the note. Each kept step of its training is a level of the game.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from assets.studies.forgers import Forger, begins_good
from assets.studies.page import embed, render
from models.errors import FoveaError
from models.experiments import GENERATIVE

BUDGET_BYTES = 6_000_000
LEVELS = 8
CASES = 4
"""Pairs of pictures a level."""


def chosen_levels(forger: Forger, count: int = LEVELS) -> list[int]:
    """Places of at most `count` stages, evenly over all of them, the first and the last among them."""
    places = np.linspace(0, len(forger.stages) - 1, min(count, len(forger.stages)))
    return [int(v) for v in np.rint(places)]


def render_game(
    forgers: Sequence[Forger], *, dataset: str, budget_bytes: int = BUDGET_BYTES, seed: int | None = None
) -> str:
    """The game as one HTML file. seed: which pictures are shown on which side; None: another order each time.

    Raises FoveaError without a forger.
    """
    if not forgers:
        raise FoveaError("a game needs a forger: a finished training with its stages kept")
    pictures: list[Any] = []
    told = []
    for forger in forgers:
        first = len(pictures)
        pictures += forger.originals
        side = forger.originals[0].shape[0]
        levels = []
        for place in chosen_levels(forger):
            stage = forger.stages[place]
            levels.append(
                {
                    "step": stage.step,
                    "pictures": list(range(len(pictures), len(pictures) + len(stage.pictures))),
                    "note": [max(1, round(v * side * side / 8)) for v in stage.bpp],
                    "psnr": [round(v, 2) for v in stage.psnr_db],
                    "caught": stage.caught,
                }
            )
            pictures += stage.pictures
        told.append(
            {
                "key": forger.key,
                "codec": forger.codec,
                "rate": f"{'C =' if forger.codec in GENERATIVE else 'λ'} {forger.lmbda:g}",
                "steps": forger.steps,
                "heldOut": forger.held_out,
                "fromTrunk": begins_good(forger),
                "side": side,
                "originals": list(range(first, first + len(forger.originals))),
                "levels": levels,
            }
        )
    addresses, quality = embed(pictures, budget_bytes)
    data = {
        "dataset": dataset,
        "cases": CASES,
        "seed": seed,
        "quality": quality,
        "forgers": told,
        "pictures": addresses,
    }
    return render("game", title="Detective or forger?", data=data, dataset=dataset, forgers=told)
