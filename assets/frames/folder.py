"""Folders of pictures: which files there are, what they are called, and which split each belongs to."""

import csv
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from assets.datasets import OTHER_PICTURE_SUFFIXES, PICTURE_SUFFIXES, SPLIT_ALIASES, SPLITS, Splits
from models.errors import FoveaError

#: Shares of a hundred for train, val and the rest (test), where nothing else says.
HASH_TRAIN, HASH_VAL = 80, 10


def find_pictures(root: Path) -> list[str]:
    """Return the picture files below `root` as sorted relative posix paths, formats that are not read included.

    Hidden files and folders are skipped, links are followed (a loop of links is walked once).
    """
    found: list[str] = []
    seen: set[str] = set()
    suffixes = PICTURE_SUFFIXES | OTHER_PICTURE_SUFFIXES
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = os.path.relpath(folder, root)
        prefix = "" if base == "." else base.replace(os.sep, "/") + "/"
        found += [
            prefix + name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122
        ]
    return sorted(found)


def image_ids(paths: Sequence[str]) -> dict[str, str]:
    """Name each relative path: without its suffix, or with it where several files differ in nothing else.

    `a.jpg` and `a.png` are `a.jpg` and `a.png`; a lone `b.png` is `b`.
    """
    stems: defaultdict[str, int] = defaultdict(int)
    for path in paths:
        stems[_stem(path)] += 1
    taken = set(paths)
    return {
        path: path
        if stems[_stem(path)] > 1 or (_stem(path) in taken and _stem(path) != path)
        else _stem(path)
        for path in paths
    }


def name_index(images: Iterable[str], paths: Iterable[str]) -> dict[str, str | None]:
    """Map every way to name a picture to its id: id, id with suffix, file name, file name without suffix.

    A name that fits several pictures maps to None.
    """
    images = list(images)
    exact = set(images)
    index: dict[str, str | None] = {image: image for image in images}
    for image, path in zip(images, paths, strict=True):
        name = PurePosixPath(path).name
        suffix = PurePosixPath(path).suffix
        for alias in {image + suffix, name, _stem(name), PurePosixPath(image).name} - exact:
            index[alias] = image if index.get(alias, image) == image else None
    return index


def assign_splits(paths: Sequence[str], splits: Splits, root: Path) -> dict[str, str]:
    """Return the split of each relative path; a path that globs, CSV, counts or folders leave out has none.

    Raises:
        FoveaError: a glob that fits nothing, a picture that two splits claim, a CSV without the columns image and
            split, with an unknown split, or with names that fit no picture or several; no split folder there.
    """
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
    return path[: len(path) - len(PurePosixPath(path).suffix)] if PurePosixPath(path).suffix else path


def _by_folder(paths: Sequence[str], root: Path) -> dict[str, str]:
    assigned = {}
    for path in paths:
        top = path.split("/", 1)[0].lower() if "/" in path else ""
        if top in SPLIT_ALIASES:
            assigned[path] = SPLIT_ALIASES[top]
    if not assigned:
        raise FoveaError(
            f"{root}: no folder train, val or test in it, which the splits rule 'folders' asks for"
        )
    return assigned


def _by_glob(
    paths: Sequence[str], globs: tuple[tuple[str, tuple[str, ...]], ...], root: Path
) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for split, patterns in globs:
        for pattern in patterns:
            hits = [p for p in paths if fnmatchcase(p if "/" in pattern else PurePosixPath(p).name, pattern)]
            if not hits:
                raise FoveaError(
                    f"{root}: the glob {pattern!r} for {split} fits none of the {len(paths)} pictures"
                )
            for path in hits:
                if assigned.setdefault(path, split) != split:
                    raise FoveaError(
                        f"{root}: {path} fits the globs of two splits, {assigned[path]} and {split}"
                    )
    return assigned


def _by_order(paths: Sequence[str], counts: tuple[int, int, int], root: Path) -> dict[str, str]:
    if sum(counts) > len(paths):
        raise FoveaError(
            f"{root}: splits {'/'.join(map(str, counts))} ask for more than the {len(paths)} pictures"
        )
    named = [split for split, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
    return dict(zip(sorted(paths), named, strict=False))


def _by_csv(paths: Sequence[str], file: Path, root: Path) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FoveaError(f"{file}: can't be read as CSV: {error}") from error
    if rows and not {"image", "split"} <= set(rows[0]):
        raise FoveaError(f"{file}: has columns {', '.join(map(str, rows[0]))}; needed are image and split")
    ids = image_ids(paths)
    path_of: Mapping[str, str] = {image: path for path, image in ids.items()}
    index = name_index(ids.values(), ids.keys())
    assigned: dict[str, str] = {}
    unknown: list[str] = []
    for line, row in enumerate(rows, start=2):
        split = SPLIT_ALIASES.get((row["split"] or "").strip().lower())
        if split is None:
            raise FoveaError(
                f"{file}, line {line}: {row['split']!r} is no split; the splits are train, val and test"
            )
        name = (row["image"] or "").strip().removeprefix("./")
        image = index.get(name)
        if image is None:
            unknown.append(f"{name} (fits several pictures)" if name in index else name)
        elif assigned.setdefault(path_of[image], split) != split:
            raise FoveaError(
                f"{file}, line {line}: {name} stands in two splits, {assigned[path_of[image]]} and {split}"
            )
    if unknown:
        raise FoveaError(f"{file} names {some(unknown)} that {root} doesn't hold")
    if not assigned:
        raise FoveaError(f"{file}: no picture in it")
    return assigned


_SHOWN: Final = 5


def some(names: Sequence[str]) -> str:
    """Return "3 pictures (a, b, c)", or the first five and how many more."""
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} picture{'s' if len(names) != 1 else ''} ({shown}{more})"
