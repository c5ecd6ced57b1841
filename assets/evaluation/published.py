"""Curves that others published, and checkpoints that others trained: what a person gave, kept under FOVEA_CONFIG.

    curves/DATASET/NAME.json         a published curve: means over the dataset's pictures, no more is known
    checkpoints/DATASET/NAME.json    files of CompressAI's format, each a point of one curve (models/codecs/external.py)

A published curve is drawn beside measured ones and compared by its points alone: nobody knows its pictures, so there is
no interval. It counts as a statement of its source.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from assets.frames.sheet import read_sheet
from assets.home import read_whole, write_whole
from models.errors import FoveaError
from models.validation import complaint

if TYPE_CHECKING:
    import pandas as pd

CSV_COLUMNS = ("codec", "bpp", "psnr_db", "ms_ssim")
MAX_NAME = 64
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class PublishedCurve:
    """Points by rising bpp: (bpp, psnr_db, ms_ssim or None). source: what the user said, or the file's name."""

    name: str
    dataset: str
    source: str
    points: tuple[tuple[float, float, float | None], ...]


def name_of(text: str) -> str:
    """A name that can be a file's: spaces and odd characters become `-`, and one of more than 64 characters ends in a digest of
    the text. Raises FoveaError when nothing is left."""
    name = re.sub(r"[^\w.+-]+", "-", text.strip()).strip("-.")
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not NAME.fullmatch(name):
        raise FoveaError(f"{text!r} is no name for a curve: letters, digits, '.', '_', '-'")
    return name


def _number(value: Any, where: str, high: float) -> float:
    """More than 0, at most `high`."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise FoveaError(f"{where}: {value!r:.80} is not a number") from None
    if isinstance(value, bool) or not 0 < number <= high:
        hint = "; MS-SSIM in dB? write 1 − 10^(−x/10)" if high == 1 and number > 1 else ""
        raise FoveaError(f"{where}: {value!r} is not within 0 … {high:g}{hint}")
    return number


def _points(rows: Iterable[tuple[str, Any, Any, Any]], where: str) -> tuple[tuple[float, float, float | None], ...]:
    """rows: (place in the file, bpp, psnr_db, ms_ssim or None)."""
    points = sorted(
        (
            _number(bpp, f"{where}: {place}, bpp", 100),
            _number(psnr, f"{where}: {place}, PSNR", 100),
            None if ms_ssim is None else _number(ms_ssim, f"{where}: {place}, MS-SSIM", 1),
        )
        for place, bpp, psnr, ms_ssim in rows
    )
    if not points:
        raise FoveaError(f"{where}: no point")
    for one, other in itertools.pairwise(points):
        if one[0] == other[0]:
            raise FoveaError(f"{where}: two points at {one[0]:g} bpp")
    return tuple(points)


def read_curves(path: Path, dataset: str, source: str = "") -> list[PublishedCurve]:
    """The curves of a file: CompressAI's results (JSON), or a CSV with the columns codec, bpp, psnr_db and, if known,
    ms_ssim (`read_sheet`). Raises FoveaError that names the file and the field."""
    source = source or path.name
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise FoveaError(f"{path}: larger than {MAX_BYTES >> 20} MiB, not a table of a few points")
    if path.suffix.lower() == ".csv":
        return _read_csv(path, dataset, source)
    try:
        return _read_json(read_whole(path).decode("utf-8-sig"), path, dataset, source)
    except UnicodeDecodeError:
        raise FoveaError(f"{path}: not a text file; give CompressAI's JSON or a CSV") from None


class _Results(BaseModel):
    """What CompressAI's result files call the columns, in evaluations of its models and of classical codecs."""

    bpp: list[Any]
    psnr: list[Any] = Field(validation_alias=AliasChoices("psnr-rgb", "psnr"))
    ms_ssim: list[Any] | None = Field(None, validation_alias=AliasChoices("ms-ssim-rgb", "ms-ssim"))


class _File(BaseModel):
    name: str
    results: _Results


def _read_json(text: str, path: Path, dataset: str, source: str) -> list[PublishedCurve]:
    try:
        file = _File.model_validate_json(text)
    except ValidationError as error:
        hint = 'CompressAI writes {"name": …, "results": {"bpp": […], …}}, and a CSV\'s name ends in .csv'
        raise FoveaError(f"{path}: {complaint(error, _File)} ({hint})") from None
    bpp = file.results.bpp
    columns = {"psnr": file.results.psnr, "ms-ssim": file.results.ms_ssim or [None] * len(bpp)}
    for name, values in columns.items():
        if len(values) != len(bpp):
            raise FoveaError(f"{path}: {len(values)} values of {name} for {len(bpp)} of bpp")
    rows = ((f"point {i}", *point) for i, point in enumerate(zip(bpp, *columns.values(), strict=True), 1))
    return [PublishedCurve(name_of(file.name), dataset, source, _points(rows, str(path)))]


def _read_csv(path: Path, dataset: str, source: str) -> list[PublishedCurve]:
    rows: dict[str, list[tuple[str, Any, Any, Any]]] = {}
    table = read_sheet(path, CSV_COLUMNS[:3], CSV_COLUMNS[3:])
    for line, values in table.to_dict("index").items():
        if not values["codec"]:
            raise FoveaError(f"{path}: line {line} has no codec")
        numbers = [values.get(name, "").replace(",", ".") for name in CSV_COLUMNS[1:]]
        rows.setdefault(values["codec"], []).append((f"line {line}", *numbers[:2], numbers[2] or None))
    if not rows:
        raise FoveaError(f"{path}: no point")
    curves = [PublishedCurve(name_of(k), dataset, source, _points(v, f"{path}, {k}")) for k, v in rows.items()]
    if len({c.name for c in curves}) != len(curves):
        raise FoveaError(f"{path}: two codecs have the same name once odd characters are replaced")
    return curves


def curve_folder(config: Path, dataset: str) -> Path:
    """Where a dataset's published curves lie."""
    return config / "curves" / dataset


def keep_curves(config: Path, curves: Iterable[PublishedCurve]) -> list[Path]:
    """Write curves, all or none. Raises FoveaError where there is another one of the same name."""
    files = {curve_folder(config, curve.dataset) / f"{curve.name}.json": curve for curve in curves}
    for path, curve in files.items():
        for known in published_curves(config, curve.dataset) if path.exists() else ():
            if known.name == curve.name and known != curve:
                raise FoveaError(
                    f"there is a curve {curve.name!r} of {curve.dataset} already, from {known.source}; give this one another name in "
                    f"its file, or remove that one first: `fovea curves remove {curve.name} --dataset {curve.dataset}`"
                )
    for path, curve in files.items():
        write_whole(path, json.dumps(asdict(curve), indent=1, ensure_ascii=False) + "\n")
    return list(files)


def forget_curve(config: Path, dataset: str, name: str) -> None:
    """Raises FoveaError that lists what there is."""
    known = [c.name for c in published_curves(config, dataset)]
    if name not in known:
        raise FoveaError(f"no published curve {name!r} of {dataset}; there are: {', '.join(known) or 'none'}")
    (curve_folder(config, dataset) / f"{name}.json").unlink()


def published_curves(config: Path, dataset: str) -> list[PublishedCurve]:
    """A dataset's published curves by name. Raises FoveaError for a file that somebody damaged."""
    curves = []
    for path in sorted(curve_folder(config, dataset).glob("*.json")):
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            rows = ((f"point {i}", bpp, psnr, ms_ssim) for i, (bpp, psnr, ms_ssim) in enumerate(raw["points"], 1))
            points = _points(rows, str(path))
            curves.append(PublishedCurve(path.stem, dataset, str(raw["source"]), points))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FoveaError(f"{path} is damaged ({error!r}); delete it and import the curve again") from error
    return curves


def published_rows(curves: Iterable[PublishedCurve], splits: Mapping[str, str]) -> "pd.DataFrame":
    """Curves as rows of `rd_curves`, without intervals, pictures and runs: the source stands in `variant`, the number of the
    point in `rate`. splits: by dataset, the one that is measured."""
    import pandas as pd

    from assets.evaluation.rate_distortion import PUBLISHED_ARM, concat_points, rd_curves

    columns = rd_curves(concat_points([])).dtypes
    blank: dict[str, Any] = {str(c): "" for c, dtype in columns.items() if dtype == "str"}
    blank |= {"n_images": 0, "n_trained_on": 0, "n_seeds": 0}
    rows = []
    for curve in curves:
        named = {"dataset": curve.dataset, "split": splits[curve.dataset], "codec": curve.name}
        named |= {"arm": PUBLISHED_ARM, "maps": "none", "variant": curve.source, "rate_name": "quality"}
        for place, point in enumerate(curve.points, 1):
            values = dict(zip(("bpp", "psnr_db", "ms_ssim"), point, strict=True))
            rows.append({**blank, **named, "rate": place, **values})
    return pd.DataFrame(rows, columns=list(columns.index)).astype(dict(columns))
