"""Checkpoints that others trained, measured beside our own codecs.

What a person gave is kept as FOVEA_CONFIG/checkpoints/DATASET/NAME.json: the model, and for each point of its curve the
file, its SHA-256 and its quality. `external_rd_points` measures them; their rows have the arm `external`.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from assets.evaluation.published import name_of
from assets.home import explained, write_whole
from models.errors import FoveaError
from models.validation import unknown


class Checkpoint(BaseModel, frozen=True):
    """One point. quality: what orders the points of a curve, as CompressAI counts them."""

    path: str
    sha256: str
    quality: float


class External(BaseModel, frozen=True):
    """One curve: checkpoints of one model by rising quality."""

    name: str
    dataset: str
    codec: str
    files: tuple[Checkpoint, ...]

    @property
    def partition(self) -> str:
        """`NAME@DATASET`."""
        return f"{self.name}@{self.dataset}"


def _file(config: Path, dataset: str, name: str) -> Path:
    return config / "checkpoints" / dataset / f"{name}.json"


def read_external(config: Path, dataset: str, name: str) -> External | None:
    """A curve by name, None when there is none. Raises FoveaError for a damaged file."""
    path = _file(config, dataset, name)
    try:
        return External(name=name, dataset=dataset, **json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        again = "delete it and evaluate the checkpoint again"
        raise FoveaError(f"{path} is damaged ({error}); {again}") from error


def externals(config: Path, dataset: str) -> list[External]:
    """All curves of a dataset by name."""
    names = sorted(p.stem for p in (config / "checkpoints" / dataset).glob("*.json"))
    return [e for n in names if (e := read_external(config, dataset, n)) is not None]


def quality_of(path: Path) -> float:
    """The quality in a file's name, `bmshj2018-hyperprior-3-6d87be32.pth.tar` as published, or `mine_q3.pth`; else 1."""
    found = re.search(r"[-_]q?(\d{1,2})(-[0-9a-f]{8})?\.", path.name)
    return float(found[1]) if found else 1.0


def keep_external(
    config: Path, dataset: str, codec: str, files: list[tuple[Path, float | None]], name: str = ""
) -> External:
    """Add checkpoints to a curve (default name: the codec's), replacing points of the same quality; within
    `kept_when_measured`, which keeps other processes from the curve.

    files: paths with their quality, None: from the name. Raises FoveaError when a file cannot be read, and when a curve
    of this name is of another model.
    """
    from models.codecs.external import WIDTHS, file_sha256

    if codec not in WIDTHS:
        raise FoveaError(unknown("codec of CompressAI", codec, WIDTHS))
    name = name_of(name or codec)
    known = read_external(config, dataset, name)
    if known is not None and known.codec != codec:
        raise FoveaError(f"{name} of {dataset} is a {known.codec}: choose another --name for a {codec}")
    given: dict[float, Path] = {}
    for path, quality in files:
        at = quality_of(path) if quality is None else quality
        if not 0 < at < math.inf:
            raise FoveaError(f"quality {at:g}: a positive number is needed")
        if at in given:
            raise FoveaError(
                f"{given[at]} and {path} both are quality {at:g}: say --quality once for each checkpoint, in their order"
            )
        given[at] = path
    points = {f.quality: f for f in (known.files if known else ())}
    points |= {q: Checkpoint(path=str(p.resolve()), sha256=file_sha256(p), quality=q) for q, p in given.items()}
    external = External(name=name, dataset=dataset, codec=codec, files=tuple(points[q] for q in sorted(points)))
    write_whole(_file(config, dataset, name), external.model_dump_json(include={"codec", "files"}, indent=1))
    return external


@contextlib.contextmanager
def kept_when_measured(config: Path, dataset: str, name: str) -> Iterator[None]:
    """A curve's list of checkpoints is as it was before when the block ends with an error: what cannot be measured would
    stand in the way of what can. One block at a time for each curve: a second process waits, so that none loses its points."""
    from filelock import FileLock

    file = _file(config, dataset, name_of(name))
    with explained(file, "set FOVEA_CONFIG to"):
        file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        before = file.read_bytes() if file.exists() else None
        try:
            yield
        except BaseException:
            if before is None:
                file.unlink(missing_ok=True)
            else:
                write_whole(file, before)
            raise
