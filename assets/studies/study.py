"""A two-alternative forced-choice study: which of two reconstructions looks closer to the original?

The page is one HTML file with the design and the pictures. Order and sides are drawn for each participant from the study's
seed and the participant's random name, so they can be drawn again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from assets.chain import Chain
from assets.evaluation.benchmark import files_again
from assets.evaluation.page import Picture
from assets.evaluation.pieces import sweep_points
from assets.store import digest
from assets.studies.design import Design, Question, Side, match_pairs
from assets.studies.page import Album, render
from models.codecs import classical
from models.errors import FoveaError
from models.sweeps import Sweep

BUDGET_BYTES = 30_000_000
#: what is shown of a larger picture: a window of this size, (width, height), at a place drawn from the seed
WINDOW = (768, 512)
CATCH_QUALITY = 4
"""JPEG quality of the worse side of a catch trial: nobody who looks takes it for the original."""


def catch_trials(pairs: int) -> int:
    """How many catch trials go with so many pairs: one to five, at least four."""
    return max(4, round(pairs / 5))


def make_design(
    chain: Chain, sweep: Sweep, arms: tuple[str, str], *, seed: int, tolerance: float, **which: Any
) -> Design:
    """The design, named by the digest of what it asks. which: pairs, codec and variant, see `match_pairs`. Raises
    FoveaError when nothing was measured or nothing matches."""
    points = sweep_points(chain, sweep)
    points = points[points.dataset == sweep.dataset]
    if points.empty:
        again = f"`fovea run --dataset {sweep.dataset} --sweep {sweep.name}`"
        raise FoveaError(f"nothing of {sweep.key} is measured yet: {again}")
    pairs, refused = match_pairs(points, arms, seed=seed, tolerance=tolerance, **which)
    images = [pairs[i % len(pairs)].image for i in range(catch_trials(len(pairs)))]
    design = Design(
        study="",
        dataset=sweep.dataset,
        sweep=sweep.name,
        arms=arms,
        seed=seed,
        tolerance=tolerance,
        mean_difference=round(float(np.mean([pair.difference for pair in pairs])), 6),
        refused=refused,
        pairs=tuple(pairs),
        catch=tuple(Question(pair=f"c{i:03}", image=image) for i, image in enumerate(images, start=1)),
    )
    name = digest(design.model_dump(mode="json", exclude={"study"}))[:10]
    return design.model_copy(update={"study": name})


def reconstructions(chain: Chain, design: Design) -> list[tuple[Picture, Picture, Picture]]:
    """(original, first, second) of each pair, uint8 RGB, made by the codecs as they were measured. Raises FoveaError for a file
    that is another than the one that was matched."""
    images: dict[str, Picture] = {}
    made: dict[tuple[str, Side], Picture] = {}
    wanted = [(pair.image, side) for pair in design.pairs for side in pair.sides]
    for experiment in dict.fromkeys(side.experiment for _, side in wanted):
        subjects, files = files_again(chain, design.dataset, experiment)
        for subject in subjects:
            images[subject.image], pixels = subject.picture, subject.picture[..., 0].size
            here = (subject.image, experiment)
            sides = {(s.codec, s.point): s for image, s in wanted if (image, s.experiment) == here}
            sizes = {name: round(side.bpp * pixels / 8) for name, side in sides.items()}
            for codec, point, shown in files(subject, sizes):
                made[subject.image, sides[codec, point]] = shown
    return [(images[p.image], made[p.image, p.sides[0]], made[p.image, p.sides[1]]) for p in design.pairs]


def window_of(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
    """The rows and columns of a picture that are shown: all, or a window of `WINDOW` at a drawn place."""
    rows, columns = min(shape[0], WINDOW[1]), min(shape[1], WINDOW[0])
    top, left = int(rng.integers(0, shape[0] - rows + 1)), int(rng.integers(0, shape[1] - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def render_study(design: Design, shown: Sequence[tuple[Picture, Picture, Picture]]) -> str:
    """The study as one HTML file. shown: (original, first, second) for each pair of the design. Raises FoveaError when the
    pictures take more than `BUDGET_BYTES`: loss would change what is compared."""
    rng = np.random.default_rng(design.seed + 1)
    originals = {pair.image: original for pair, (original, _, _) in zip(design.pairs, shown, strict=True)}
    windows = {image: window_of(original.shape, rng) for image, original in originals.items()}
    catches = [originals[catch.image] for catch in design.catch]
    bad = [classical.decode("jpeg", classical.encode("jpeg", CATCH_QUALITY, good)) for good in catches]
    triples = [*shown, *zip(catches, catches, bad, strict=True)]
    album = Album()
    trials = []
    for (kind, question, names), triple in zip(design.trials(), triples, strict=True):
        original, *pictures = (album.put(picture[windows[question.image]]) for picture in triple)
        asked = {"pair": question.pair, "kind": kind, "image": question.image, "names": names}
        trials.append({**asked, "original": original, "pictures": pictures})
    if sum(map(len, album.addresses)) > BUDGET_BYTES:
        limit = f"{BUDGET_BYTES / 1e6:g} MB without loss"
        raise FoveaError(f"the pictures of {len(design.pairs)} pairs take more than {limit}: fewer --pairs")
    shape = shown[0][0][next(iter(windows.values()))].shape
    return render("study", album, shape, [{"trials": trials}], study=design.study, seed=design.seed)
