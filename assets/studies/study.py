"""A two-alternative forced-choice study: which of two reconstructions looks closer to the original?

The design (which pairs, at which bpp, which catch trials) is kept as study.json, the page is one HTML file that holds the
same design and the pictures. Order and sides are drawn for each participant from the study's seed and the participant's
random id, so they can be drawn again.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.chain import Chain, Progress, silent
from assets.store import digest
from assets.studies.page import embed, render
from assets.studies.pairs import Match, Side, match_pairs, mean_difference
from models.errors import FoveaError

Picture = NDArray[np.uint8]

FORMAT = "fovea-study/1"
BUDGET_BYTES = 30_000_000
#: what is shown of a larger picture: a window of this size, (width, height), at a place drawn from the seed
WINDOW = (768, 512)
CATCH_QUALITY = 4
"""JPEG quality of the worse side of a catch trial: nobody who looks takes it for the original."""
GUESSING_PASSES = 1 / 16
"""How often somebody who guesses may get enough catch trials right to be counted."""


def catch_trials(pairs: int) -> int:
    """How many catch trials go with so many pairs: one to five, at least four."""
    return max(4, round(pairs / 5))


def catches_needed(seen: int) -> int:
    """How many of so many catch trials must be right: the fewest that guessing reaches at most GUESSING_PASSES of the time;
    all of them where there are too few for that."""
    ways = 0
    for right in range(seen, -1, -1):
        ways += math.comb(seen, right)
        if ways > GUESSING_PASSES * 2**seen:
            return min(seen, right + 1)
    return seen


def design(
    chain: Chain,
    dataset: str,
    sweep_name: str,
    arms: tuple[str, str],
    *,
    pairs: int,
    seed: int,
    tolerance: float,
    codec: str = "",
    variant: str | None = None,
) -> tuple[dict[str, Any], list[Match]]:
    """study.json and its matches. Raises FoveaError when nothing was measured or nothing matches."""
    from assets.evaluation.pieces import sweep_points
    from models.experiments import sweep

    chain.dataset(dataset)
    sweep(sweep_name, dataset)
    points = sweep_points(chain, chain.sweeps[f"{dataset}.{sweep_name}"])
    points = points[points.dataset == dataset]
    if points.empty:
        raise FoveaError(
            f"nothing of {dataset}.{sweep_name} is measured yet: `fovea run --dataset {dataset} --sweep {sweep_name}`"
        )
    matches, refused = match_pairs(
        points, arms, pairs=pairs, seed=seed, tolerance=tolerance, codec=codec, variant=variant
    )
    said = {
        "format": FORMAT,
        "dataset": dataset,
        "sweep": sweep_name,
        "arms": list(arms),
        "seed": seed,
        "tolerance": tolerance,
        "mean_difference": round(mean_difference(matches), 6),
        "refused": refused,
        "pairs": [
            {
                "pair": f"p{i + 1:03}",
                "image": m.image,
                "sides": [
                    {
                        "arm": s.arm,
                        "codec": s.codec,
                        "experiment": s.experiment,
                        "point": s.point,
                        "bpp": s.bpp,
                    }
                    for s in (m.first, m.second)
                ],
            }
            for i, m in enumerate(matches)
        ],
        "catch": [
            {"pair": f"c{i + 1:03}", "image": matches[i % len(matches)].image}
            for i in range(catch_trials(len(matches)))
        ],
    }
    return {"study": digest(said)[:10], **said}, matches


def reconstructions(
    chain: Chain, dataset: str, matches: Sequence[Match], progress: Progress = silent
) -> list[tuple[Picture, Picture, Picture]]:
    """(original, first, second) of each match, uint8 RGB, made by the codecs as they were measured.

    Raises FoveaError when a file has another length than rd_points says: this would not be the picture that was matched.
    """
    from assets.evaluation.pieces import measured_table

    table = measured_table(chain, dataset)
    keys = dict(zip(table.image, table.key, strict=True))
    originals = {m.image: np.asarray(chain.store.array("resized_frames", keys[m.image])) for m in matches}
    made: dict[tuple[str, Side], Picture] = {}
    wanted = [(m.image, s) for m in matches for s in (m.first, m.second)]
    for experiment in dict.fromkeys(s.experiment for _, s in wanted):
        mine = [(image, s) for image, s in wanted if s.experiment == experiment]
        for image, side, data, picture in _encoded(chain, dataset, experiment, mine, originals):
            pixels = picture.shape[0] * picture.shape[1]
            if abs(8 * len(data) / pixels - side.bpp) > 1e-9:
                raise FoveaError(
                    f"{image} by {side.arm} is {len(data)} bytes here, {round(side.bpp * pixels / 8)} in rd_points: run "
                    "`fovea run` again for this sweep"
                )
            made[image, side] = picture
            progress(len(made), len(wanted), "pictures coded")
    return [(originals[m.image], made[m.image, m.first], made[m.image, m.second]) for m in matches]


def _encoded(
    chain: Chain,
    dataset: str,
    experiment: str,
    wanted: Sequence[tuple[str, Side]],
    originals: dict[str, Picture],
) -> Any:
    """(image, side, file, picture) for each file of one training; "" are the classical codecs."""
    if not experiment:
        from models.codecs import classical

        for image, side in wanted:
            data = classical.encode(side.codec, side.point, originals[image])
            yield image, side, data, classical.decode(side.codec, data)
        return
    from assets.evaluation.pieces import subjects_of
    from models.codecs.catalogue import load_codec

    record = chain.experiment(experiment)
    codec = load_codec(chain.made("trained_codec", experiment).folder / "codec")
    subjects = {s.image: s for s in subjects_of(chain, dataset, record.maps, record.saliency, silent)}
    for image, side in wanted:
        coded = codec.encode(originals[image], saliency_map=subjects[image].condition, lmbda=side.point)
        yield image, side, coded.data, coded.reconstruction


def window_of(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
    """The rows and columns of a picture that are shown: all, or a window of `WINDOW` at a drawn place."""
    rows, columns = min(shape[0], WINDOW[1]), min(shape[1], WINDOW[0])
    top, left = int(rng.integers(0, shape[0] - rows + 1)), int(rng.integers(0, shape[1] - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def render_study(
    said: dict[str, Any],
    shown: Sequence[tuple[Picture, Picture, Picture]],
    *,
    budget_bytes: int = BUDGET_BYTES,
) -> str:
    """The study as one HTML file. shown: (original, first, second) for each pair of the design.

    Pictures are embedded without loss. Raises FoveaError when they exceed the budget.
    """
    from models.codecs import classical

    rng = np.random.default_rng(int(said["seed"]) + 1)
    windows: dict[str, tuple[slice, slice]] = {}
    for pair, (original, _, _) in zip(said["pairs"], shown, strict=True):
        windows.setdefault(pair["image"], window_of(original.shape, rng))
    pictures: list[Picture] = []
    places: dict[str, int] = {}
    wholes: dict[str, Picture] = {}
    trials: list[dict[str, Any]] = []

    def put(picture: Picture, image: str) -> int:
        pictures.append(np.ascontiguousarray(picture[windows[image]]))
        return len(pictures) - 1

    for pair, (original, first, second) in zip(said["pairs"], shown, strict=True):
        image = pair["image"]
        wholes[image] = original
        if image not in places:
            places[image] = put(original, image)
        trials.append(
            {
                "pair": pair["pair"],
                "kind": "pair",
                "image": image,
                "original": places[image],
                "names": [s["arm"] for s in pair["sides"]],
                "pictures": [put(first, image), put(second, image)],
            }
        )
    worse: dict[str, int] = {}
    for catch in said["catch"]:
        image = catch["image"]
        if image not in worse:
            file = classical.encode("jpeg", CATCH_QUALITY, wholes[image])
            worse[image] = put(classical.decode("jpeg", file), image)
        trials.append(
            {
                "pair": catch["pair"],
                "kind": "catch",
                "image": image,
                "original": places[image],
                "names": ["original", "heavily compressed"],
                "pictures": [places[image], worse[image]],
            }
        )
    addresses, quality = embed(pictures, budget_bytes)
    if quality is not None:
        raise FoveaError(
            f"the pictures of {len(said['pairs'])} pairs take more than {budget_bytes / 1e6:g} MB without loss, and loss would "
            "change what is compared: fewer --pairs, or a larger --budget-mb"
        )
    data = {"study": said["study"], "seed": said["seed"], "trials": trials, "pictures": addresses}
    shape = pictures[0].shape
    return render(
        "study",
        title="Which looks closer to the original?",
        data=data,
        trials=len(trials),
        shape=round(shape[0] / shape[1], 4),
        natural=shape[1],
    )
