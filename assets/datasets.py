"""The registry of datasets: the user's `fovea.toml`.

Every dataset is a named source of frames. `sample` (scenes drawn by code) and `cityscapes` (the real download) are
always there; folders of pictures are added with `fovea datasets add`. The file is the user's own: it is edited in
place, comments stay, and it lies apart from the state that may be deleted.

```toml
[datasets.sample]                       # optional: other counts or seed for the drawn scenes
seed = 3
counts = { train = 100, val = 10, test = 20 }

[datasets.cityscapes]                   # optional: what you have already (or CITYSCAPES_ROOT), and not all cities
path = "/data/leftImg8bit_trainvaltest.zip"
subset = true

[datasets.osie]
path = "/data/osie/stimuli"             # relative paths start at the folder of this file
splits = "500/60/140"                   # or "auto", "folders", "hash", "splits.csv", { train = "a*", test = ["b*", "c*"] }
fixations = "/data/osie/fixations.parquet"
size = "native"                         # or "512x256"
saliency = "osie.sam_lite+3folds"       # the maps' model; default: the one that ships (models/saliency/records.py)
```
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import tomlkit
from tomlkit.exceptions import TOMLKitError

from assets.settings import SETTINGS_FILE
from models.config import TABLES
from models.errors import FoveaError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["sample", "cityscapes", "folder"]
Size = tuple[int, int] | Literal["native"]
SplitRule = Literal["auto", "folders", "hash", "globs", "csv", "order"]

SPLITS: Final = ("train", "val", "test")
#: Spellings of a split that folders, CSV files and the registry may use.
SPLIT_ALIASES: Final = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
#: What `fovea` reads. Other picture files in a folder are quarantined by name, other files ignored.
PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff"})
OTHER_PICTURE_SUFFIXES: Final = frozenset(
    {".gif", ".bmp", ".ppm", ".pgm", ".pnm", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".exr", ".hdr",
     ".dng", ".cr2", ".nef", ".arw", ".psd", ".tga", ".apng"}
)  # fmt: skip

REGISTRY_FILE: Final = SETTINGS_FILE
BUILT_IN: Final = ("sample", "cityscapes")
DEFAULT_FRAME_SIZE: Final = (512, 256)
#: The classical codecs that stand beside the learned ones, unless a dataset names fewer.
CLASSICAL: Final = ("jpeg", "webp", "avif", "jpegxl", "bicubic")
#: Widths and heights of frames: below, no codec or metric here has anything to work on.
MIN_SIDE: Final = 16
MAX_SIDE: Final = 16384
DEFAULT_SAMPLE_COUNTS: Final = {"train": 24, "val": 6, "test": 8}

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_KEYS: Final[dict[Kind, frozenset[str]]] = {
    "sample": frozenset({"seed", "counts", "size", "saliency", "classical"}),
    "cityscapes": frozenset({"path", "size", "subset", "saliency", "classical"}),
    "folder": frozenset({"path", "splits", "fixations", "size", "saliency", "classical"}),
}


@dataclass(frozen=True)
class Splits:
    """How the pictures of a dataset fall into train, val and test.

    `folders`: by the first folder of the path (train, val or valid or validation, test). `hash`: 80/10/10 by a stable
    hash of the path. `auto`: `folders` where such folders exist, else `hash`. `globs`: patterns for each split.
    `csv`: a table with columns image and split. `order`: counts by sorted path. Pictures that globs, CSV or counts
    don't mention are left out.
    """

    rule: SplitRule = "auto"
    globs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    csv: Path | None = None
    counts: tuple[int, int, int] | None = None

    def to_toml(self) -> str | dict[str, list[str]]:
        """Return the value that stands in `fovea.toml`."""
        if self.rule == "csv":
            return str(self.csv)
        if self.rule == "order" and self.counts:
            return "/".join(map(str, self.counts))
        if self.rule == "globs":
            return {split: list(patterns) for split, patterns in self.globs}
        return self.rule


@dataclass(frozen=True)
class Dataset:
    """A named source of frames.

    `path` is the folder of the pictures; None for `sample` (its folder is made by the pipeline) and for `cityscapes`
    while CITYSCAPES_ROOT is not set. `size` is the frame size (width, height) that pictures are brought to, never
    upscaled, or "native". `counts` and `seed` belong to `sample` alone, `subset` (whole cities may be absent) to
    `cityscapes`, whose `path` may also be the archive. `saliency` names the model that the maps come from (the
    catalogue's, or a training's such as "osie.sam_lite+3folds"), "" for the default. `classical` names the classical
    codecs that are measured: AVIF and JPEG XL at their slow settings cost most of the time on a large dataset.
    """

    name: str
    kind: Kind
    path: Path | None = None
    splits: Splits = field(default_factory=Splits)
    fixations: Path | None = None
    size: Size = "native"
    counts: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    subset: bool = False
    saliency: str = ""
    classical: tuple[str, ...] = CLASSICAL

    def root(self) -> Path:
        """Return the existing folder of the pictures.

        Raises:
            FoveaError: there is no such folder; the message says what to do.
        """
        if self.path is None:
            if self.kind == "cityscapes":
                raise FoveaError(CITYSCAPES_NEEDS)
            raise FoveaError(
                f"dataset {self.name!r} has no folder of its own: materialise its source_frames first"
            )
        if not self.path.exists():
            raise FoveaError(
                f"dataset {self.name!r}: the folder {self.path} is gone. Bring it back, or forget the dataset with "
                f"`fovea datasets remove {self.name}`"
            )
        if not self.path.is_dir():
            raise FoveaError(f"dataset {self.name!r}: {self.path} is not a folder")
        return self.path

    def evaluation_split(self, manifest: "pd.DataFrame") -> str:
        """Return the split that codecs are measured on: "test" where the manifest has one, else "val".

        Raises:
            FoveaError: the manifest has neither.
        """
        present = set(manifest.loc[manifest["status"] == "ok", "split"])
        for split in ("test", "val"):
            if split in present:
                return split
        raise FoveaError(
            f"dataset {self.name!r} has no picture in test or val, so nothing to measure on: name some with "
            f"`fovea datasets add {self.name} PATH --test GLOB`"
        )


CITYSCAPES_NEEDS: Final = (
    "dataset 'cityscapes' is not here. It needs your own account at https://www.cityscapes-dataset.com: set "
    "CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD and it is downloaded (11 GB), or set CITYSCAPES_ROOT to a folder "
    "that holds leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png"
)


def config_dir() -> Path:
    """Return the folder of `fovea.toml`: FOVEA_CONFIG, else the nearest folder upwards that looks like the project."""
    if chosen := os.environ.get("FOVEA_CONFIG"):
        return Path(chosen).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / REGISTRY_FILE).exists() or (folder / "workspace.yaml").exists():
            return folder
    return here


def parse_size(text: object, where: str = "size") -> Size:
    """Read "512x256" (width × height) or "native".

    Raises:
        FoveaError: anything else, a side under 16 or over 16384; the message starts with `where`.
    """
    if text == "native":
        return "native"
    match = re.fullmatch(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*", text) if isinstance(text, str) else None
    if not match:
        raise FoveaError(f'{where}: {text!r} is no size; write WIDTHxHEIGHT, such as "512x256", or "native"')
    width, height = int(match[1]), int(match[2])
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise FoveaError(f"{where}: {text!r} has a side outside {MIN_SIDE} … {MAX_SIDE} pixels")
    return width, height


def format_size(size: Size) -> str:
    """Return "512x256" or "native"."""
    return size if isinstance(size, str) else f"{size[0]}x{size[1]}"


def parse_splits(value: object, base: Path, where: str = "splits") -> Splits:
    """Read a splits rule: a word, a CSV file, counts such as "500/60/140", or a mapping of split to globs.

    Raises:
        FoveaError: no such rule, or a CSV that is not there; the message starts with `where`.
    """
    if value is None or value == "auto":
        return Splits()
    if isinstance(value, Mapping):
        globs: dict[str, tuple[str, ...]] = {}
        for name, patterns in value.items():
            split = SPLIT_ALIASES.get(str(name).lower())
            if split is None:
                raise FoveaError(f"{where}: {str(name)!r} is no split; the splits are train, val and test")
            listed = (patterns,) if isinstance(patterns, str) else patterns
            if (
                not isinstance(listed, Sequence)
                or not listed
                or not all(isinstance(p, str) and p for p in listed)
            ):
                raise FoveaError(f"{where}.{split}: expected a glob or a list of globs, got {patterns!r}")
            globs[split] = tuple(str(pattern) for pattern in listed)
        if not globs:
            raise FoveaError(f"{where}: no globs given")
        return Splits("globs", globs=tuple((split, globs[split]) for split in SPLITS if split in globs))
    if isinstance(value, str):
        text = str(value)
        if text == "folders" or text == "hash":
            return Splits(text)  # type: ignore[arg-type]
        if match := re.fullmatch(r"(\d+)/(\d+)/(\d+)", text):
            counts = (int(match[1]), int(match[2]), int(match[3]))
            if not sum(counts):
                raise FoveaError(f"{where}: {text!r} takes no picture at all")
            return Splits("order", counts=counts)
        if text.lower().endswith((".csv", ".tsv")):
            csv = _resolve(text, base)
            if not csv.is_file():
                raise FoveaError(f"{where}: no file {csv}")
            return Splits("csv", csv=csv)
    raise FoveaError(
        f'{where}: {value!r} is no splits rule; use "auto", "folders", "hash", counts such as "500/60/140", '
        "a CSV file with columns image and split, or globs for train, val and test"
    )


def load_registry(config_dir: Path) -> dict[str, Dataset]:
    """Read the datasets of `config_dir/fovea.toml`, `sample` and `cityscapes` first; a missing file is an empty one.

    Folders are not looked at here, so that one that vanished stops only its own dataset.

    Raises:
        FoveaError: the file is no TOML, has unknown keys or bad values; the message names file and key.
    """
    document = _read(config_dir / REGISTRY_FILE)
    tables = document.get("datasets", {})
    known: dict[str, Dataset] = {}
    for name in (*BUILT_IN, *(str(name) for name in tables if name not in BUILT_IN)):
        known[name] = _dataset(name, tables.get(name, {}), config_dir)
    return known


def add_dataset(
    config_dir: Path,
    name: str,
    path: Path | str,
    *,
    splits: str | Mapping[str, str | Sequence[str]] | None = None,
    fixations: Path | str | None = None,
    size: str | None = None,
    saliency: str = "",
) -> Dataset:
    """Register a folder of pictures in `config_dir/fovea.toml` and return the dataset.

    Relative paths given here start at the working directory and are written out in full.

    Raises:
        FoveaError: bad or taken name, no such folder, not a folder, no picture in it, bad size or splits, no such
            fixation table.
    """
    _check_name(name, "name")
    folder = Path(path).expanduser().absolute()
    if not folder.exists():
        raise FoveaError(f"no folder {folder}")
    if not folder.is_dir():
        raise FoveaError(f"{folder} is not a folder; a dataset is a folder of pictures")
    if not _has_picture(folder):
        raise FoveaError(
            f"{folder} is empty: no picture in it or below ({', '.join(sorted(PICTURE_SUFFIXES))})"
        )
    rule = parse_splits(splits, Path.cwd())
    table = None
    if fixations is not None:
        table = Path(fixations).expanduser().absolute()
        if not table.is_file():
            raise FoveaError(f"no fixation table {table}")
    dataset = Dataset(
        name,
        "folder",
        folder,
        rule,
        table,
        "native" if size is None else parse_size(size, "size"),
        saliency=_saliency(saliency, "saliency"),
    )
    with _editing(config_dir) as document:
        tables = document.setdefault("datasets", tomlkit.table(is_super_table=True))
        if name in tables:
            raise FoveaError(
                f"there is a dataset {name!r} already, for {tables[name].get('path')}; choose another name or remove "
                f"it first: `fovea datasets remove {name}`"
            )
        entry = tomlkit.table()
        entry["path"] = str(folder)
        if rule.rule != "auto":
            written = rule.to_toml()
            if isinstance(written, dict):
                inline = tomlkit.inline_table()
                inline.update(written)
                entry["splits"] = inline
            else:
                entry["splits"] = written
        if table:
            entry["fixations"] = str(table)
        if dataset.size != "native":
            entry["size"] = format_size(dataset.size)
        if saliency:
            entry["saliency"] = saliency
        tables[name] = entry
    return dataset


def remove_dataset(config_dir: Path, name: str) -> Dataset:
    """Forget a registered folder (its pictures and results stay) and return what it was.

    Raises:
        FoveaError: no such dataset, or one of the two that are always there.
    """
    if name in BUILT_IN:
        raise FoveaError(f"{name!r} is always there and can't be removed")
    with _editing(config_dir) as document:
        dataset = find_dataset(load_registry(config_dir), name)
        del document["datasets"][name]
        if not document["datasets"]:
            del document["datasets"]
    return dataset


def find_dataset(registry: Mapping[str, Dataset], name: str) -> Dataset:
    """Return the dataset of that name.

    Raises:
        FoveaError: there is none; the message lists the names there are.
    """
    if name not in registry:
        raise FoveaError(
            f"no dataset {name!r}; there are {', '.join(registry)}. Add a folder of pictures with "
            f"`fovea datasets add {name} PATH`"
        )
    return registry[name]


def _dataset(name: str, table: Any, base: Path) -> Dataset:
    where = f"{base / REGISTRY_FILE}: datasets.{name}"
    _check_name(name, where, built_in_allowed=True)
    if not isinstance(table, Mapping):
        raise FoveaError(f"{where}: expected a table [datasets.{name}], got {table!r}")
    table = table.unwrap() if hasattr(table, "unwrap") else dict(table)
    kind: Kind = "sample" if name == "sample" else "cityscapes" if name == "cityscapes" else "folder"
    if unknown := sorted(set(table) - _KEYS[kind]):
        raise FoveaError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(_KEYS[kind]))}"
        )
    size: Size = DEFAULT_FRAME_SIZE if kind != "folder" else "native"
    if "size" in table:
        size = parse_size(table["size"], f"{where}.size")
    saliency = _saliency(table.get("saliency", ""), f"{where}.saliency")
    classical = _classical(table.get("classical", list(CLASSICAL)), f"{where}.classical")
    if kind == "sample":
        counts, seed = _sample_settings(table, where)
        return Dataset(
            name,
            kind,
            None,
            Splits("folders"),
            None,
            size,
            counts,
            seed,
            saliency=saliency,
            classical=classical,
        )
    path = _path(table, "path", where, base)
    if kind == "cityscapes":
        chosen = os.environ.get("CITYSCAPES_ROOT")
        subset = table.get("subset", False)
        if not isinstance(subset, bool):
            raise FoveaError(f"{where}.subset: expected true or false, got {subset!r}")
        return Dataset(
            name,
            kind,
            Path(chosen).expanduser().absolute() if chosen else path,
            Splits("folders"),
            None,
            size,
            subset=subset,
            saliency=saliency,
            classical=classical,
        )
    if path is None:
        raise FoveaError(f'{where}: no path; write path = "/folder/of/pictures"')
    rule = parse_splits(table.get("splits"), base, f"{where}.splits")
    fixations = _path(table, "fixations", where, base)
    return Dataset(name, kind, path, rule, fixations, size, saliency=saliency, classical=classical)


def _classical(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(name not in CLASSICAL for name in value):
        raise FoveaError(f"{where}: expected one or more of {', '.join(CLASSICAL)}, got {value!r}")
    return tuple(name for name in CLASSICAL if name in value)


def _saliency(value: Any, where: str) -> str:
    from models.saliency.records import trainings_of

    if not isinstance(value, str):
        raise FoveaError(f"{where}: expected the name of a saliency model, got {value!r}")
    if value:
        try:
            trainings_of(value)
        except FoveaError as error:
            raise FoveaError(f"{where}: {error}") from error
    return value


def _sample_settings(table: Mapping[str, Any], where: str) -> tuple[tuple[tuple[str, int], ...], int]:
    seed = table.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise FoveaError(f"{where}.seed: expected a whole number from 0, got {seed!r}")
    given = table.get("counts", {})
    if not isinstance(given, Mapping):
        raise FoveaError(f"{where}.counts: expected {{ train = …, val = …, test = … }}, got {given!r}")
    counts = dict(DEFAULT_SAMPLE_COUNTS)
    for split, count in given.items():
        if split not in SPLITS:
            raise FoveaError(f"{where}.counts: {split!r} is no split; the splits are train, val and test")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 100_000:
            raise FoveaError(
                f"{where}.counts.{split}: expected a whole number from 0 to 100000, got {count!r}"
            )
        counts[split] = count
    if not sum(counts.values()):
        raise FoveaError(f"{where}.counts: no picture in any split")
    return tuple(counts.items()), seed


def _path(table: Mapping[str, Any], key: str, where: str, base: Path) -> Path | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise FoveaError(f"{where}.{key}: expected a path, got {value!r}")
    return _resolve(value, base)


def _resolve(text: str, base: Path) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else (base / path).absolute()


def _check_name(name: str, where: str, built_in_allowed: bool = False) -> None:
    if not _NAME.fullmatch(name):
        raise FoveaError(
            f"{where}: {name!r} is no name for a dataset; use up to 40 small letters, digits, - and _, "
            "and begin with a letter or digit"
        )
    if name in BUILT_IN and not built_in_allowed:
        raise FoveaError(f"{where}: {name!r} is always there; choose another name")


def _has_picture(folder: Path) -> bool:
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and name[0] != "." for name in files):  # noqa: PTH122
            return True
    return False


def _read(file: Path) -> tomlkit.TOMLDocument:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return tomlkit.document()
    except (OSError, UnicodeDecodeError) as error:
        raise FoveaError(f"{file}: can't be read: {error}") from error
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        twice = ": two datasets of one name? Rename or delete one" if "already" in str(error) else ""
        raise FoveaError(f"{file}: {error}{twice}") from error
    if unknown := sorted(set(document) - set(TABLES)):
        raise FoveaError(f"{file}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(TABLES))}")
    tables = document.get("datasets", {})
    if not isinstance(tables, Mapping):
        raise FoveaError(f"{file}: datasets: expected tables [datasets.NAME], got {tables!r}")
    return document


@contextmanager
def _editing(config_dir: Path) -> Iterator[Any]:
    """Yield the parsed file under a lock; write it back, whole or not at all, if the body went through."""
    from filelock import FileLock, Timeout  # costs 30 ms that readers of the registry need not pay

    config_dir.mkdir(parents=True, exist_ok=True)
    file = config_dir / REGISTRY_FILE
    try:
        with FileLock(f"{file}.lock", timeout=30):
            document = _read(file)
            yield document
            handle, temporary = tempfile.mkstemp(prefix=f".{REGISTRY_FILE}.", dir=config_dir)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(tomlkit.dumps(document))
                if file.exists():
                    Path(temporary).chmod(file.stat().st_mode)
                else:
                    Path(temporary).chmod(0o644)
                Path(temporary).replace(file)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
    except Timeout as error:
        raise FoveaError(f"{file} is being edited by another process ({file}.lock is held)") from error


def with_root(dataset: Dataset, root: Path) -> Dataset:
    """Return the dataset with its pictures under `root` (where `sample` was drawn or `cityscapes` unpacked)."""
    return replace(dataset, path=root)
