"""Which files a command reads, and where it writes what it makes of each."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from assets.frames.encode import png_chunk
from assets.frames.folder import find_pictures, image_ids
from assets.home import check_ours, is_ours
from models.errors import FoveaError

#: what no folder's name ends in that is made here
FILES = (".fov", ".png", ".jpg", ".jpeg")


def targets_of(
    sources: Sequence[Path], output: Path, suffix: str, inside: Callable[[Path], Sequence[str]], by: str
) -> list[tuple[Path, Path]]:
    """What is read and where it is written: the named file for one source, else a folder in which given folders are mirrored.

    inside: the names below a folder that count; what the command itself put below `output` doesn't. by: the command, as
    in `signed`. Raises FoveaError for a missing source, two that would meet in one file, an output that does not fit,
    and one that would take the place of a source or of a file that the command did not make.
    """
    mark = rb"\AFOV[\0-\x1f]" if suffix == ".fov" else by.encode()
    for source in sources:
        if not source.exists():
            raise FoveaError(f"no such file: {source}")
    if len(sources) == 1 and not sources[0].is_dir():
        if output.is_dir():
            raise FoveaError(
                f"{output} is a folder: name the file to write, for example {output / sources[0].stem}{suffix}"
            )
        work = [(sources[0], output)]
    else:
        work = mirrored(sources, output, suffix, inside, mark)
    read = {_place(source) for source, _ in work} - {None}
    for _, target in work:
        if _place(target) in read:
            raise FoveaError(f"{target} is read in this call and would be written over: name another output")
        check_ours(target, mark)
    return work


def _place(path: Path) -> tuple[int, int] | None:
    """Disk and inode: the same through every link and spelling. None where nothing is."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def signed(data: bytes, by: str) -> bytes:
    """A PNG or JPEG that names the command that made it in its first bytes, so that it may be written over by it."""
    if data.startswith(b"\x89PNG"):
        place, mark = 33, png_chunk(b"tEXt", b"Software\0" + by.encode())  # behind IHDR
    else:
        place, mark = 20, b"\xff\xfe" + (len(by) + 2).to_bytes(2, "big") + by.encode()  # behind JFIF's APP0
    return data[:place] + mark + data[place:]


def mirrored(
    sources: Sequence[Path], output: Path, suffix: str, inside: Callable[[Path], Sequence[str]], mark: bytes
) -> list[tuple[Path, Path]]:
    """Several sources, or what is in folders, each with its place below the folder `output`."""
    work: list[tuple[Path, Path]] = []
    for source in sources:
        if source.is_dir():
            below = f"{os.path.relpath(output.resolve(), source.resolve())}/".removeprefix("./")
            named = image_ids([p for p in inside(source) if not (p.startswith(below) and is_ours(source / p, mark))])
            work += [(source / p, output / f"{name}{suffix}") for p, name in named.items()]
        else:
            work.append((source, output / f"{source.stem}{suffix}"))
    if not work:
        raise FoveaError(f"nothing to do in {', '.join(map(str, sources))}")
    if not output.is_dir() and (output.exists() or output.suffix.lower() in FILES):
        looks = "is" if output.exists() else "has the name of"
        raise FoveaError(f"{output} {looks} a file: several results need a folder; name one")
    targets = [t for _, t in work]
    if len(set(targets)) < len(targets):
        twice = sorted(t for t in set(targets) if targets.count(t) > 1)[0]
        raise FoveaError(
            f"{' and '.join(str(s) for s, t in work if t == twice)} would both be written to {twice}: give their folder "
            "instead, or one at a time"
        )
    return work


def files_in(folder: Path) -> list[str]:
    """Names of the .fov files below a folder. Raises FoveaError as `find_pictures`."""
    return find_pictures(folder, {".fov"})
