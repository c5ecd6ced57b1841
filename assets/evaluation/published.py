"""Curves that others published, and checkpoints that others trained: what a person gave, kept under FOVEA_CONFIG.

    curves/DATASET/NAME.json         a published curve: means over the dataset's pictures, no more is known
    checkpoints/DATASET/NAME.json    files of CompressAI's format, each a point of one curve (models/codecs/external.py)

A published curve is drawn beside measured ones and compared by its points alone: nobody knows its pictures, so there is
no interval. It counts as a statement of its source.
"""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assets.home import written_beside
from models.errors import FoveaError

#: what CompressAI's result files call the columns (evaluations of its models, and of classical codecs)
PSNR_NAMES, MS_SSIM_NAMES = ("psnr-rgb", "psnr"), ("ms-ssim-rgb", "ms-ssim")
CSV_COLUMNS = ("codec", "bpp", "psnr_db", "ms_ssim")
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
    """A name that can be a file's: spaces and odd characters become `-`. Raises FoveaError when nothing is left."""
    name = re.sub(r"[^\w.+-]+", "-", text.strip()).strip("-.")
    if not NAME.fullmatch(name):
        raise FoveaError(f"{text!r} is no name for a curve: letters, digits, '.', '_', '-', at most 64")
    return name


def _number(value: Any, where: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise FoveaError(f"{where}: {value!r:.80} is not a number") from None
    if isinstance(value, bool) or not (math.isfinite(number) and low < number <= high):
        hint = ""
        if high == 1 and number > 1:
            hint = "; MS-SSIM in dB? write 1 − 10^(−x/10)"
        raise FoveaError(f"{where}: {value!r} is not within {low:g} … {high:g}{hint}")
    return number


def _points(
    rows: Iterable[tuple[str, Any, Any, Any]], where: str
) -> tuple[tuple[float, float, float | None], ...]:
    """rows: (place in the file, bpp, psnr_db, ms_ssim or None)."""
    points = []
    for place, bpp, psnr, ms_ssim in rows:
        points.append(
            (
                _number(bpp, f"{where}: {place}, bpp", 0, 100),
                _number(psnr, f"{where}: {place}, PSNR", 0, 100),
                None if ms_ssim is None else _number(ms_ssim, f"{where}: {place}, MS-SSIM", 0, 1),
            )
        )
    if not points:
        raise FoveaError(f"{where}: no point")
    points.sort()
    for one, other in itertools.pairwise(points):
        if one[0] == other[0]:
            raise FoveaError(f"{where}: two points at {one[0]:g} bpp")
    return tuple(points)


def read_curves(path: Path, dataset: str, source: str = "") -> list[PublishedCurve]:
    """The curves of a file: CompressAI's results (JSON), or a CSV with the columns codec, bpp, psnr_db and, if known,
    ms_ssim. Raises FoveaError that names the file and the field."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FoveaError(f"{path}: larger than {MAX_BYTES >> 20} MiB, not a table of a few points")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FoveaError(f"{path}: no such file") from None
    except OSError as error:
        raise FoveaError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise FoveaError(f"{path}: not a text file; give CompressAI's JSON or a CSV") from None
    source = source or path.name
    if path.suffix.lower() == ".csv":
        return _read_csv(text, path, dataset, source)
    return [_read_json(text, path, dataset, source)]


def _read_json(text: str, path: Path, dataset: str, source: str) -> PublishedCurve:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FoveaError(f"{path}: not JSON ({error}); a CSV's name ends in .csv") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("results"), dict):
        raise FoveaError(f'{path}: no field "results"; expected {{"name": …, "results": {{"bpp": […], …}}}}')
    results = raw["results"]
    if not isinstance(raw.get("name"), str):
        raise FoveaError(f'{path}: field "name" is missing or not a text')
    columns: list[list[Any] | None] = []
    for names, needed in ((("bpp",), True), (PSNR_NAMES, True), (MS_SSIM_NAMES, False)):
        found = next((n for n in names if n in results), None)
        if found is None and needed:
            raise FoveaError(f'{path}: field "results.{names[0]}" is missing')
        values = results[found] if found is not None else None
        if values is not None and not isinstance(values, list):
            raise FoveaError(f'{path}: field "results.{found}" is not a list')
        columns.append(values)
    bpp, psnr, ms_ssim = columns
    assert bpp is not None
    assert psnr is not None
    for name, values in (("psnr", psnr), ("ms-ssim", ms_ssim)):
        if values is not None and len(values) != len(bpp):
            raise FoveaError(f"{path}: {len(values)} values of {name} for {len(bpp)} of bpp")
    rows = [
        (f"point {i + 1}", b, p, ms_ssim[i] if ms_ssim else None)
        for i, (b, p) in enumerate(zip(bpp, psnr, strict=True))
    ]
    return PublishedCurve(name_of(raw["name"]), dataset, source, _points(rows, str(path)))


def _read_csv(text: str, path: Path, dataset: str, source: str) -> list[PublishedCurve]:
    reader = csv.DictReader(io.StringIO(text))
    columns = [c.strip() for c in reader.fieldnames or ()]
    missing = [c for c in CSV_COLUMNS[:3] if c not in columns]
    unknown = [c for c in columns if c not in CSV_COLUMNS]
    if missing or unknown:
        what = f"column {missing[0]!r} is missing" if missing else f"column {unknown[0]!r} is unknown"
        raise FoveaError(f"{path}: {what}; the columns are codec, bpp, psnr_db and, if known, ms_ssim")
    reader.fieldnames = columns
    rows: dict[str, list[tuple[str, Any, Any, Any]]] = {}
    for row in reader:
        line = f"line {reader.line_num}"
        if None in row or any(v is None for v in row.values()):
            raise FoveaError(f"{path}: {line} does not have {len(columns)} columns")
        values = {k: v.strip() for k, v in row.items()}
        if not values["codec"]:
            raise FoveaError(f"{path}: {line} has no codec")
        rows.setdefault(values["codec"], []).append(
            (line, values["bpp"], values["psnr_db"], values.get("ms_ssim") or None)
        )
    if not rows:
        raise FoveaError(f"{path}: no point")
    curves = [
        PublishedCurve(name_of(k), dataset, source, _points(v, f"{path}, {k}")) for k, v in rows.items()
    ]
    if len({c.name for c in curves}) != len(curves):
        raise FoveaError(f"{path}: two codecs have the same name once odd characters are replaced")
    return curves


def curve_folder(config: Path, dataset: str) -> Path:
    """Where a dataset's published curves lie."""
    return config / "curves" / dataset


def keep_curve(config: Path, curve: PublishedCurve) -> Path:
    """Write a curve, replacing one of the same name."""
    path = curve_folder(config, curve.dataset) / f"{curve.name}.json"
    with written_beside(path) as beside:
        beside.write_text(json.dumps(asdict(curve), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


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
            raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rows = [(f"point {i + 1}", *p) for i, p in enumerate(raw["points"])]
            points = _points(((r[0], r[1], r[2], r[3]) for r in rows), str(path))
            curves.append(PublishedCurve(path.stem, dataset, str(raw["source"]), points))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FoveaError(
                f"{path} is damaged ({error!r}); delete it and import the curve again"
            ) from error
    return curves
