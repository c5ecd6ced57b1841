"""The registry of datasets: the user's `fovea.toml`.

Every dataset is a named source of frames. `sample` (scenes drawn by code) and `cityscapes` (the real download) are
always there; folders of pictures are added with `fovea datasets add`. The file is the user's own: it is edited in
place, comments stay, and it lies apart from the state that may be deleted. docs/datasets.md lists its fields.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self, cast, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from models.config import SETTINGS_FILE, expanded, read_tables
from models.errors import FoveaError
from models.saliency.records import OWN_MAPS, trainings_of
from models.validation import Typed, checked, unknown

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

BUILT_IN: Final = ("sample", "cityscapes")
DEFAULT_FRAME_SIZE: Final = (512, 256)
Classical = Literal["jpeg", "jpeg_guided", "jpeg_trellis", "webp", "avif", "jpegxl", "bicubic"]
#: The classical codecs that stand beside the learned ones, unless a dataset names others; in the order of `Classical`.
CLASSICAL: Final[tuple[Classical, ...]] = ("jpeg", "jpeg_guided", "webp", "avif", "jpegxl", "bicubic")
#: Widths and heights of frames: below, no codec or metric here has anything to work on.
MIN_SIDE: Final = 16
MAX_SIDE: Final = 16384

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


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
    upscaled, or "native". `counts` and `seed` belong to `sample` alone, `subset` (frames may be absent) to
    `cityscapes`, whose `path` may also be the archive. `saliency` names the model that the maps come from (the
    catalogue's, or a training's such as "osie.sam_lite+3folds"), "" for the default, and is OWN_MAPS where `maps` is a
    folder with a map for each picture. `classical` names the codecs of
    models/codecs/classical.py that are measured: AVIF and JPEG XL at their slow settings cost most of the time on a
    large dataset.
    """

    name: str
    kind: Kind
    path: Path | None = None
    splits: Splits = field(default_factory=Splits)
    fixations: Path | None = None
    texts: Path | None = None
    maps: Path | None = None
    size: Size = "native"
    counts: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    subset: bool = False
    saliency: str = ""
    classical: tuple[str, ...] = CLASSICAL

    def root(self) -> Path:
        """Return the existing folder of the pictures. Raises FoveaError: there is no such folder; the message says what to
        do."""
        if self.path is None:
            if self.kind == "cityscapes":
                raise FoveaError(CITYSCAPES_NEEDS)
            raise FoveaError(f"dataset {self.name!r} has no folder of its own: materialise its source_frames first")
        if not self.path.exists():
            raise FoveaError(
                f"dataset {self.name!r}: the folder {self.path} is gone. Bring it back, or forget the dataset with "
                f"`fovea datasets remove {self.name}`"
            )
        if not self.path.is_dir():
            raise FoveaError(f"dataset {self.name!r}: {self.path} is not a folder")
        return self.path

    def evaluation_split(self, manifest: "pd.DataFrame") -> str:
        """Return the split that codecs are measured on: "test" where the manifest has one, else "val". Raises FoveaError:
        the manifest has neither."""
        present = set(manifest.loc[manifest["status"] == "ok", "split"])
        for split in ("test", "val"):
            if split in present:
                return split
        raise FoveaError(
            f"dataset {self.name!r} has no picture in test or val, so nothing to measure on: {self.way_to('test')}"
        )

    def way_to(self, split: str) -> str:
        """What a person does for pictures, or more of them, in a split."""
        if self.kind == "sample":
            return f"raise counts.{split} under [datasets.sample] in {SETTINGS_FILE}"
        by_glob = self.splits.rule == "globs"
        how = (
            f"--{split} GLOB` (other globs stay)" if by_glob else "--splits COUNTS`, or --train, --val and --test GLOB"
        )
        return f"`fovea datasets add {self.name} {shlex.quote(str(self.path or 'PATH'))} {how}"


CITYSCAPES_NEEDS: Final = (
    "dataset 'cityscapes' is not here. It needs your own account at https://www.cityscapes-dataset.com: set "
    "CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD and it is downloaded (11 GB), or set CITYSCAPES_ROOT to a folder "
    "that holds leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png"
)


def parse_size(text: object) -> Size:
    """Read "512x256" (width × height) or "native". Raises FoveaError: anything else, a side under 16 or over 16384."""
    if text == "native":
        return "native"
    match = re.fullmatch(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*", text) if isinstance(text, str) else None
    if not match:
        raise FoveaError(f'{text!r} is no size; write WIDTHxHEIGHT, such as "512x256", or "native"')
    width, height = int(match[1]), int(match[2])
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise FoveaError(f"{text!r} has a side outside {MIN_SIDE} … {MAX_SIDE} pixels")
    return width, height


def format_size(size: Size) -> str:
    """Return "512x256" or "native"."""
    return size if isinstance(size, str) else f"{size[0]}x{size[1]}"


def parse_splits(value: object, base: Path) -> Splits:
    """Read a splits rule: a word, a CSV file, counts such as "500/60/140", or a mapping of split to globs. Raises
    FoveaError: no such rule, or a CSV that is not there."""
    match value:
        case Mapping():
            return _parse_globs(value)
        case None | "auto":
            return Splits()
        case "folders" | "hash":
            return Splits(value)
        case str() if counted := re.fullmatch(r"(\d+)/(\d+)/(\d+)", value):
            counts = (int(counted[1]), int(counted[2]), int(counted[3]))
            if not sum(counts):
                raise FoveaError(f"{value!r} takes no picture at all")
            return Splits("order", counts=counts)
        case str() if value.lower().endswith((".csv", ".tsv")):
            csv = _resolve(value, base)
            if not csv.is_file():
                raise FoveaError(f"no file {csv}")
            return Splits("csv", csv=csv)
    raise FoveaError(
        f'{value!r} is no splits rule; use "auto", "folders", "hash", counts such as "500/60/140", a CSV file with '
        "columns image and split, or globs for train, val and test"
    )


def _parse_globs(value: Mapping[Any, Any]) -> Splits:
    globs: dict[str, tuple[str, ...]] = {}
    for name, patterns in value.items():
        split = SPLIT_ALIASES.get(str(name).lower())
        if split is None:
            raise FoveaError(f"{str(name)!r} is no split; the splits are train, val and test")
        listed = (patterns,) if isinstance(patterns, str) else patterns
        if not isinstance(listed, Sequence) or not listed or not all(isinstance(p, str) and p for p in listed):
            raise FoveaError(f"{split}: expected a glob or a list of globs, got {patterns!r}")
        globs[split] = tuple(str(pattern) for pattern in listed)
    if not globs:
        raise FoveaError("no globs given")
    return Splits("globs", globs=tuple((split, globs[split]) for split in SPLITS if split in globs))


def _known_model(name: str) -> str:
    if name == OWN_MAPS:
        raise FoveaError('maps of your own: write maps = "FOLDER" in place of saliency')
    if name:
        trainings_of(name)
    return name


def _resolved(path: object, info: ValidationInfo) -> Path:
    if not isinstance(path, str | Path) or not path:
        raise FoveaError(f"expected a path, got {path!r}")
    return _resolve(str(path), cast(Path, info.context))


def _chosen_root(path: Path | None) -> Path | None:
    chosen = os.environ.get("CITYSCAPES_ROOT")
    return expanded(chosen, "CITYSCAPES_ROOT: ").absolute() if chosen else path


def _in_order(codecs: list[Classical]) -> tuple[Classical, ...]:
    return tuple(codec for codec in get_args(Classical) if codec in codecs)


FrameSize = Annotated[Any, AfterValidator(parse_size)]
Place = Annotated[Path, BeforeValidator(_resolved)]
Count = Annotated[int, Field(ge=0, le=100_000)]


class Strict(Typed):
    """A part of the file: no text for a number, no number for a flag. A default is read as what stands in the file."""

    model_config = ConfigDict(strict=True, validate_default=True)


class Counts(Strict):
    """Pictures of `sample` in each split."""

    train: Count = 24
    val: Count = 6
    test: Count = 8

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not self.train + self.val + self.test:
            raise FoveaError("no picture in any split")
        return self


class Table(Strict):
    """What every `[datasets.NAME]` may hold, named as in `Dataset`. Relative paths start at the folder that is the context of
    validation."""

    kind: ClassVar[Kind] = "folder"
    size: FrameSize = "native"
    saliency: Annotated[str, AfterValidator(_known_model)] = ""
    maps: Place | None = None
    classical: Annotated[list[Classical], Field(min_length=1), AfterValidator(_in_order)] = list(CLASSICAL)

    @model_validator(mode="after")
    def _has_maps_of_one_kind(self) -> Self:
        if self.maps and self.saliency:
            raise FoveaError(f"give either maps of your own, or saliency = {self.saliency!r}, a model that makes them")
        return self

    def dataset(self, name: str) -> Dataset:
        """The dataset of this name."""
        fields = {field: getattr(self, field) for field in type(self).model_fields}
        return Dataset(name, self.kind, **fields | ({"saliency": OWN_MAPS} if self.maps else {}))


class SampleTable(Table):
    """`[datasets.sample]`."""

    kind = "sample"
    size: FrameSize = format_size(DEFAULT_FRAME_SIZE)
    seed: int = Field(default=0, ge=0)
    counts: Annotated[Counts, AfterValidator(lambda counts: tuple(counts.model_dump().items()))] = Counts()


class CityscapesTable(Table):
    """`[datasets.cityscapes]`."""

    kind = "cityscapes"
    size: FrameSize = format_size(DEFAULT_FRAME_SIZE)
    path: Annotated[Place | None, AfterValidator(_chosen_root)] = None
    subset: bool = False


class FolderTable(Table):
    """A registered folder of pictures."""

    path: Place
    splits: Annotated[Any, AfterValidator(lambda value, info: parse_splits(value, info.context))] = None
    fixations: Place | None = None
    texts: Place | None = None

    @model_validator(mode="after")
    def _keeps_maps_apart(self) -> Self:
        if self.maps and self.maps.is_relative_to(self.path):
            raise FoveaError(f"the maps in {self.maps} would be taken for pictures: move them out of {self.path}")
        return self


TABLES: Final[Mapping[str, type[Table]]] = {"sample": SampleTable, "cityscapes": CityscapesTable}


def load_registry(config_dir: Path, wrong: dict[str, FoveaError] | None = None) -> dict[str, Dataset]:
    """Read the datasets of `config_dir/fovea.toml`, `sample` and `cityscapes` first; a missing file is an empty one.

    Folders are not looked at here, so that one that vanished stops only its own dataset. wrong: gets what is wrong with each
    table that is left out for it; None: the first one is raised.

    Raises FoveaError: the file is no TOML, has unknown fields or bad values; the message names file and field.
    """
    file = config_dir / SETTINGS_FILE
    tables = read_tables(file, "datasets")
    known: dict[str, Dataset] = {}
    for name in dict.fromkeys((*BUILT_IN, *tables)):
        where, table = f"{file}: datasets.{name}", tables.get(name, {})
        try:
            _check_name(name, where, built_in_allowed=True)
            if not isinstance(table, dict):
                raise FoveaError(f"{where}: expected a table [datasets.{name}], got {table!r}")
            known[name] = checked(TABLES.get(name, FolderTable), table, where, config_dir).dataset(name)
        except FoveaError as error:
            if wrong is None:
                raise
            wrong[name] = error
    return known


def add_dataset(
    config_dir: Path,
    name: str,
    path: Path | str,
    *,
    splits: str | Mapping[str, str | Sequence[str]] | None = None,
    fixations: Path | str | None = None,
    texts: Path | str | None = None,
    maps: Path | str | None = None,
    size: str | None = None,
    classical: Sequence[str] = (),
) -> Dataset:
    """Register a folder of pictures in `config_dir/fovea.toml` and return the dataset; for a name that has this folder
    already, change the options that are given; of globs, those of the splits that are given.

    Relative paths given here start at the working directory and are written out in full.

    Raises FoveaError: bad or taken name, no such folder, not a folder, no picture in it, bad size or splits, no such
    table of fixations or texts, no folder of maps, or classical codec.
    """
    _check_name(name, "name")
    folder = _resolve(str(path), Path())
    if not folder.exists():
        raise FoveaError(f"no folder {folder}")
    if not folder.is_dir():
        raise FoveaError(f"{folder} is not a folder; a dataset is a folder of pictures")
    if not _has_picture(folder):
        raise FoveaError(f"{folder}: no picture in it or below ({', '.join(sorted(PICTURE_SUFFIXES))})")
    asked: dict[str, Any] = {"path": folder, "splits": splits, "fixations": fixations, "texts": texts, "maps": maps}
    asked |= {"size": size, "classical": list(classical) or None}
    given = {name: value for name, value in asked.items() if value is not None}
    dataset = checked(FolderTable, given, "", Path.cwd()).dataset(name)
    for what, table in (("fixation table", dataset.fixations), ("table of texts", dataset.texts)):
        if table and not table.is_file():
            raise FoveaError(f"no {what} {table}")
    if dataset.maps and not dataset.maps.is_dir():
        raise FoveaError(f"{dataset.maps} is no folder of maps")
    written: dict[str, Any] = {
        "path": str(dataset.path),
        "splits": "" if dataset.splits.rule == "auto" else dataset.splits.to_toml(),
        "fixations": str(dataset.fixations or ""),
        "texts": str(dataset.texts or ""),
        "maps": str(dataset.maps or ""),
        "size": "" if dataset.size == "native" else format_size(dataset.size),
        "classical": list(dataset.classical) if classical else "",
    }
    with _editing(config_dir) as tables:
        known = _resolve(str(tables.get(name, written)["path"]), config_dir)
        if name in tables and (known != dataset.path or set(given) == {"path"}):
            raise FoveaError(
                f"there is a dataset {name!r} already, for {tables[name].get('path')}; choose another name, name options to "
                f"change for the same folder, or remove it first: `fovea datasets remove {name}`"
            )
        if dataset.splits.globs and isinstance(before := tables.get(name, {}).get("splits"), Mapping):
            written["splits"] = dict(parse_splits(before, config_dir).globs) | dict(dataset.splits.globs)
        changed = {**tables.get(name, {}), **{key: written[key] for key in given}}
        tables[name] = {key: value for key, value in changed.items() if value}
        return checked(FolderTable, dict(tables[name]), "", config_dir).dataset(name)


def remove_dataset(config_dir: Path, name: str) -> None:
    """Forget a registered folder; its pictures and results stay. Raises FoveaError: no such dataset, or a built-in one."""
    if name in BUILT_IN:
        raise FoveaError(f"{name!r} is always there and can't be removed")
    with _editing(config_dir) as tables:
        if name not in tables:
            raise FoveaError(unknown("dataset", name, tables))
        del tables[name]


def put_back(config_dir: Path, name: str, table: Mapping[str, Any] | None) -> None:
    """Have the settings of a dataset be what they were; None: there was no such dataset."""
    with _editing(config_dir) as tables:
        if table is None:
            tables.pop(name, None)
        else:
            tables[name] = table


def _resolve(text: str, base: Path) -> Path:
    path = base / expanded(text)
    return path.resolve() if ".." in path.parts else path.absolute()


def _check_name(name: str, where: str, built_in_allowed: bool = False) -> None:
    if not _NAME.fullmatch(name):
        raise FoveaError(
            f"{where}: {name!r} is no name for a dataset; use up to 40 small letters, digits, - and _, "
            "and begin with a letter or digit"
        )
    if re.match(r"s\d+-", name):
        raise FoveaError(f"{where}: {name!r} begins like the part of a key that says which seed; choose another name")
    if name in BUILT_IN and not built_in_allowed:
        raise FoveaError(f"{where}: {name!r} is always there; choose another name")


def _has_picture(folder: Path) -> bool:
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(Path(name).suffix.lower() in PICTURE_SUFFIXES and name[0] != "." for name in files):
            return True
    return False


@contextmanager
def _editing(config_dir: Path) -> Iterator[Any]:
    """Yield the tables of the datasets under a lock; write the file it back, whole or not at all, if the body went through."""
    # costs 30 ms and more that readers of the registry need not pay
    import tomlkit
    from filelock import FileLock, Timeout

    from assets.home import explained, written_beside

    file, way = config_dir / SETTINGS_FILE, "set FOVEA_CONFIG to"
    try:
        with explained(file, way), FileLock(f"{file}.lock", timeout=30):
            read_tables(file, "datasets")
            file = file.resolve()  # a link into a folder of dotfiles stays one
            document = tomlkit.parse(file.read_text(encoding="utf-8-sig")) if file.exists() else tomlkit.document()
            tables = document.setdefault("datasets", tomlkit.table(is_super_table=True))
            yield tables
            if not tables:
                del document["datasets"]
            with written_beside(file, way) as beside:
                beside.write_text(tomlkit.dumps(document), encoding="utf-8")
                beside.chmod(file.stat().st_mode if file.exists() else 0o644)
    except Timeout as error:
        raise FoveaError(f"{file} is being edited by another process ({file}.lock is held)") from error
