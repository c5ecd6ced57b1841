"""Folders of pictures: which files there are, what they are called, and which split each belongs to."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from assets.datasets import OTHER_PICTURE_SUFFIXES, PICTURE_SUFFIXES, SPLIT_ALIASES, SPLITS, Splits
from assets.frames.sheet import read_sheet
from models.errors import FoveaError

#: Shares of a hundred for train, val and the rest (test), where nothing else says.
HASH_TRAIN, HASH_VAL = 80, 10


def find_pictures(root: Path, suffixes: Collection[str] = PICTURE_SUFFIXES | OTHER_PICTURE_SUFFIXES) -> list[str]:
    """Return the picture files below `root` as sorted relative posix paths, formats that are not read included.

    Hidden files and folders are skipped, links are followed (a loop of links is walked once). Raises FoveaError for a folder
    that can't be listed.
    """

    def stop(error: OSError) -> None:
        raise FoveaError(
            f"{error.filename}: the folder can't be listed: {error.strerror}. Make it readable, or move it away"
        ) from error

    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=stop, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root)
        pictures = (name for name in files if name[0] != "." and PurePosixPath(name).suffix.lower() in suffixes)
        found += [(base / name).as_posix() for name in pictures]
    return sorted(found)


def image_ids(paths: Sequence[str]) -> dict[str, str]:
    """Name each relative path: without its suffix, or with it where several files differ in nothing else. `a.jpg` and
    `a.png` are `a.jpg` and `a.png`; a lone `b.png` is `b`."""
    stems = {path: _stem(path) for path in paths}
    taken = Counter([*stems.values(), *(path for path, stem in stems.items() if stem != path)])
    return {path: path if taken[stem] > 1 else stem for path, stem in stems.items()}


def with_ending(image: str, path: str) -> str:
    """What a picture is called for people, who look for its file: `a` of `/d/a.png` is `a.png`."""
    return image if image.endswith(PurePosixPath(path).suffix) else image + PurePosixPath(path).suffix


class Names:
    """Finds a picture by any name that fits it alone: id, id with suffix, file name, file name without suffix; also with
    other capitals, accents composed or not, or `\\` for `/`; and by an absolute path that ends in one of the first two."""

    def __init__(self, images: Iterable[str], paths: Iterable[str]) -> None:
        ids: dict[str, str | None] = {}
        plain: dict[str, str | None] = {}
        folded: dict[str, str | None] = {}
        self._ends: dict[str, str | None] = {}
        for image, path in zip(images, paths, strict=True):
            name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix
            ids[image] = image
            for alias in {image, image + suffix, name, _stem(name), PurePosixPath(image).name}:
                _put(plain, alias, image)
                _put(folded, _folded(alias), image)
            for alias in (image, image + suffix):
                _put(self._ends, _folded(alias), image)
        self._known = folded | plain | ids

    def resolve(self, names: Iterable[str]) -> tuple[dict[str, str], list[str], list[str]]:
        """The id of each name that fits one picture, the names that fit none, and those that fit several."""
        found = {name: self._find(name) for name in dict.fromkeys(names)}
        unknown = [name for name, image in found.items() if image == ""]
        ambiguous = [name for name, image in found.items() if image is None]
        return {name: image for name, image in found.items() if image}, unknown, ambiguous

    def _find(self, name: str) -> str | None:
        """None where several fit, "" where none does."""
        path = name.replace("\\", "/").removeprefix("./")
        for form in (name, path, _folded(path)):
            if form in self._known:
                return self._known[form]
        parts = _folded(path).split("/") if re.match(r"/|[A-Za-z]:/", path) else []
        ends = ("/".join(parts[k:]) for k in range(1, len(parts)))
        return next((self._ends[end] for end in ends if end in self._ends), "")


def _put(index: dict[str, str | None], alias: str, image: str) -> None:
    index[alias] = image if index.get(alias, image) == image else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def assign_splits(paths: Sequence[str], splits: Splits, root: Path) -> dict[str, str]:
    """Return the split of each relative path; a path that globs, CSV, counts or folders leave out has none. Raises
    FoveaError: a glob that fits nothing, a picture that two splits claim, a CSV as in `read_sheet`, with an unknown split,
    or with names that fit no picture or several; no split folder there."""
    if splits.rule == "auto":
        tops = {path.split("/", 1)[0].lower() for path in paths if "/" in path}
        splits = Splits("folders" if tops & set(SPLIT_ALIASES) else "hash")
    if splits.rule == "folders":
        return _by_folder(paths, root)
    if splits.rule == "hash":
        return {path: hash_split(_stem(path)) for path in paths}
    if splits.rule == "globs":
        return _by_glob(paths, splits.globs, root)
    if splits.rule == "order":
        return _by_order(paths, splits.counts or (0, 0, 0), root)
    if splits.csv is None:
        raise FoveaError(f"{root}: the splits rule 'csv' names no file")
    return _by_csv(paths, splits.csv, root)


def hash_split(name: str) -> str:
    """Return train, val or test for a path without suffix: 80/10/10, the same on every machine and for ever."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 100
    return "train" if place < HASH_TRAIN else "val" if place < HASH_TRAIN + HASH_VAL else "test"


def group_of(path: str, by_folder: bool) -> str:
    """Return the folder a picture lies in (a city, a film), without the split's folder: "" at the top."""
    parts = path.split("/")[:-1]
    if by_folder and parts and parts[0].lower() in SPLIT_ALIASES:
        parts = parts[1:]
    return "/".join(parts)


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)


def _by_folder(paths: Sequence[str], root: Path) -> dict[str, str]:
    tops = {path: path.split("/", 1)[0].lower() for path in paths if "/" in path}
    assigned = {path: SPLIT_ALIASES[top] for path, top in tops.items() if top in SPLIT_ALIASES}
    if not assigned:
        raise FoveaError(f"{root}: no folder train, val or test in it, which the splits rule 'folders' asks for")
    return assigned


def _by_glob(paths: Sequence[str], globs: tuple[tuple[str, tuple[str, ...]], ...], root: Path) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for split, patterns in globs:
        for pattern in patterns:
            hits = [p for p in paths if fnmatchcase(p if "/" in pattern else PurePosixPath(p).name, pattern)]
            if not hits:
                raise FoveaError(f"{root}: the glob {pattern!r} for {split} fits none of the {len(paths)} pictures")
            for path in hits:
                if assigned.setdefault(path, split) != split:
                    raise FoveaError(f"{root}: {path} fits the globs of two splits, {assigned[path]} and {split}")
    return assigned


def _by_order(paths: Sequence[str], counts: tuple[int, int, int], root: Path) -> dict[str, str]:
    if sum(counts) > len(paths):
        raise FoveaError(f"{root}: splits {'/'.join(map(str, counts))} ask for more than the {len(paths)} pictures")
    named = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(sorted(paths), named, strict=False))


def _by_csv(paths: Sequence[str], file: Path, root: Path) -> dict[str, str]:
    ids = image_ids(paths)
    path_of: Mapping[str, str] = {image: path for path, image in ids.items()}
    table = read_sheet(file, ("image", "split"))
    found, unknown, ambiguous = Names(ids.values(), ids.keys()).resolve(table["image"])
    assigned: dict[str, str] = {}
    for line, name, said in zip(table.index, table["image"], table["split"], strict=True):
        split = SPLIT_ALIASES.get(said.lower())
        if split is None:
            what = f"{said!r} is no split" if said else f"{name} has no split (is the row cut short?)"
            raise FoveaError(f"{file}, line {line}: {what}; the splits are train, val and test")
        if name in found and assigned.setdefault(path_of[found[name]], split) != split:
            one = assigned[path_of[found[name]]]
            raise FoveaError(f"{file}, line {line}: {name} stands in two splits, {one} and {split}")
    unknown += [f"{name} (fits several pictures)" for name in ambiguous]
    if unknown:
        raise FoveaError(f"{file} names {some(unknown)} that {root} doesn't hold")
    if not assigned:
        raise FoveaError(f"{file}: no picture in it")
    return assigned


def unlike(strange: Sequence[str], images: Iterable[str]) -> str:
    """`; it names a.jpg, the dataset has b`: for a table that fits no picture. strange: its names that fit none."""
    return f"; it names {strange[0]}, the dataset has {next(iter(images), 'no picture')}" if strange else ""


_SHOWN: Final = 5


def some(names: Sequence[str]) -> str:
    """Return "3 pictures (a, b, c)", or the first five and how many more."""
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} picture{'s' if len(names) != 1 else ''} ({shown}{more})"
