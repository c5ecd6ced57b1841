"""What a study asks: pairs of pictures of two arms that cost the same, and catch trials (the original against a bad JPEG).

Kept where no state is deleted: FOVEA_CONFIG/studies/STUDY/study.json, and answers/PARTICIPANT.json beside it.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from assets.evaluation.rate_distortion import CLASSICAL_ARM, label_arm
from assets.home import write_whole
from models.errors import FoveaError
from models.validation import complaint


class Side(BaseModel, frozen=True):
    """One measured file: its arm's label, the training ("" for a classical codec), lambda or quality, and bpp."""

    arm: str
    codec: str
    experiment: str
    point: float
    bpp: float


class Question(BaseModel, frozen=True):
    """A trial's name and its picture; alone, a catch trial."""

    pair: str
    image: str


class Pair(Question, frozen=True):
    """A picture as two arms show it at (nearly) the same bpp."""

    sides: tuple[Side, Side]

    @property
    def difference(self) -> float:
        """By which share of their mean the two bpp differ; positive when the second costs more."""
        first, second = self.sides
        return 2 * (second.bpp - first.bpp) / (second.bpp + first.bpp)


class Design(BaseModel, frozen=True):
    """study.json. mean_difference: of the pairs' `difference`; refused: why a picture is in no pair."""

    study: str
    format: Literal["fovea-study/1"] = "fovea-study/1"
    dataset: str
    sweep: str
    arms: tuple[str, str]
    seed: int
    tolerance: float
    mean_difference: float
    refused: dict[str, str] = {}
    pairs: tuple[Pair, ...]
    catch: tuple[Question, ...]

    def trials(self) -> list[tuple[str, Question, tuple[str, str]]]:
        """(kind, question, names of the two sides) of all that is asked."""
        pairs = [("pair", p, (p.sides[0].arm, p.sides[1].arm)) for p in self.pairs]
        return [*pairs, *(("catch", c, ("original", "heavily compressed")) for c in self.catch)]


def rows_of(points: pd.DataFrame, arm: str, codec: str | None = None, variant: str | None = None) -> pd.DataFrame:
    """The measured rows of one arm, such as `saliency_gain@center` or `webp`: of one codec, one variant, its first seed.
    Adds `label`. codec, variant: as rd_points has them, needed where an arm has several. Raises FoveaError."""
    columns = zip(points.codec, points.arm, points.maps, strict=True)
    labels = [codec if arm == CLASSICAL_ARM else label_arm(arm, maps) for codec, arm, maps in columns]
    points = points.assign(label=labels)
    rows = points[points.label == arm]
    if rows.empty:
        raise FoveaError(f"no measured arm {arm!r}; measured here: {', '.join(sorted(set(labels)))}")
    if (rows.arm == CLASSICAL_ARM).all():
        return rows
    for column, wanted in (("codec", codec), ("variant", variant)):
        known = sorted(rows[column].unique())
        if len(known) > 1 and wanted not in known:
            named = ", ".join(map(repr, known))
            raise FoveaError(f"arm {arm!r} was measured as {named}: name one of them with --{column}")
        rows = rows[rows[column] == (wanted if len(known) > 1 else known[0])]
    rows = rows[rows.train_dataset == rows.train_dataset.min()]
    first: pd.DataFrame = rows[rows.seed == rows.seed.min()]
    return first


def match_pairs(
    points: pd.DataFrame, arms: tuple[str, str], *, pairs: int, seed: int, tolerance: float, **only: str | None
) -> tuple[list[Pair], dict[str, str]]:
    """Up to `pairs` pairs, each file in one of them at most, and why each picture that has none was refused.

    points: rows of rd_points of one dataset. tolerance: by which share of their mean the two bpp may differ. only: codec and
    variant, see `rows_of`. Pairs are drawn picture by picture, so that no picture has two more than another that could have
    had it; which rate of a picture comes first is drawn, too. Raises FoveaError when there is not one pair.
    """
    if arms[0] == arms[1]:
        raise FoveaError(f"--arms names {arms[0]!r} twice; a study compares two")
    tables = [rows_of(points, arm, **only) for arm in arms]
    for column, wanted in only.items():
        if wanted is not None and not any((t[column] == wanted).any() for t in tables):
            raise FoveaError(f"neither arm was measured as --{column} {wanted!r}")
    found, refused, nearest = {}, {}, []
    for image in sorted({*tables[0].image, *tables[1].image}):
        first, second = (_sides(table[table.image == image]) for table in tables)
        candidates = [Pair(pair="", image=image, sides=both) for both in itertools.product(first, second)]
        if not candidates:
            refused[image] = f"not measured with {arms[1] if first else arms[0]}"
            continue
        best = min(candidates, key=lambda pair: abs(pair.difference))
        nearest.append(100 * abs(best.difference))
        if abs(best.difference) <= tolerance:
            found[image] = _each_file_once(p for p in candidates if abs(p.difference) <= tolerance)
        else:
            rates = " and ".join(f"{side.bpp:.4f}" for side in best.sides)
            apart = f"{nearest[-1]:.1f} % apart (tolerance {100 * tolerance:g} %)"
            refused[image] = f"its nearest rates are {rates} bpp, {apart}"
    if not found:
        hint = f"; the nearest are {min(nearest):.1f} % apart (--tolerance)" if nearest else ""
        raise FoveaError(f"no picture was measured with {arms[0]} and {arms[1]} at matched bpp{hint}")
    return _spread(found, pairs, seed), refused


def _each_file_once(candidates: Iterable[Pair]) -> list[Pair]:
    """The pairs nearest in bpp first, without those of a file that is in one already."""
    used: set[Side] = set()
    good = []
    for pair in sorted(candidates, key=lambda pair: abs(pair.difference)):
        if used.isdisjoint(pair.sides):
            used.update(pair.sides)
            good.append(pair)
    return good


def _spread(found: Mapping[str, Sequence[Pair]], pairs: int, seed: int) -> list[Pair]:
    """Up to `pairs` of them, named p001 and so on, in a seeded order."""
    rng = np.random.default_rng(seed)
    order = [sorted(found)[i] for i in rng.permutation(len(found))]
    drawn = [[found[image][i] for i in rng.permutation(len(found[image]))][::-1] for image in order]
    dealt = (pair for turn in itertools.zip_longest(*drawn) for pair in turn if pair is not None)
    return [p.model_copy(update={"pair": f"p{i:03}"}) for i, p in enumerate(itertools.islice(dealt, pairs), 1)]


def _sides(rows: pd.DataFrame) -> list[Side]:
    columns = zip(rows.label, rows.codec, rows.experiment, rows.rate, rows.bpp, strict=True)
    return [Side(arm=a, codec=c, experiment=e, point=p, bpp=b) for a, c, e, p, b in columns]


def known_studies(config: Path) -> list[str]:
    """Every study that was made here."""
    return sorted(path.parent.name for path in config.glob("studies/*/study.json"))


def keep_design(config: Path, design: Design) -> Path:
    """Write study.json; the same design twice is the same file."""
    path = config / "studies" / design.study / "study.json"
    write_whole(path, design.model_dump_json(indent=1))
    return path


def read_design(config: Path, study: str) -> Design:
    """Raises FoveaError when the study is not known here or its file is damaged."""
    path = config / "studies" / study / "study.json"
    again = "bring it again, or make the study again with the same `fovea study make`"
    try:
        design = Design.model_validate_json(path.read_bytes(), strict=True)
        damage = "" if design.study == study else "it is another study"
    except FileNotFoundError as error:
        known = ", ".join(known_studies(config)) or "none"
        raise FoveaError(f"{path}: study {study} is not known here (known: {known}): {again}") from error
    except ValidationError as error:
        damage = complaint(error, Design)
    if damage:
        raise FoveaError(f"{path} is damaged ({damage}): {again}; to do without it, move its folder away")
    return design
