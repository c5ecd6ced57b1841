"""Pictures to .fov files and back, one or whole folders, over all cores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import find_pictures
from assets.home import write_whole
from models.codecs.base import Codec, Picture
from models.codecs.batch import in_order
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY
from models.mechanisms import NEEDS_MAP

Loaded = TypeVar("Loaded")
About = TypeVar("About")


def _each(
    work: Sequence[tuple[Path, Path]],
    read: Callable[[Path], Loaded],
    code: Callable[[Loaded], tuple[bytes, About]],
    threads: int,
    failed: list[str] | None,
) -> Iterator[tuple[Path, bytes, About]]:
    """Read the sources here, code several at once, and write each target beside and rename it; yields target, bytes and what
    `code` says of them, in order. What is wrong with a source goes to `failed`, or is raised where that is None."""

    def missed(error: FoveaError) -> None:
        if failed is None:
            raise error
        failed.append(str(error))

    def opened() -> Iterator[tuple[Path, Path, Loaded]]:
        for source, target in work:
            try:
                loaded = read(source)
            except FoveaError as error:
                missed(error)
                continue
            yield source, target, loaded

    def coded(item: tuple[Path, Path, Loaded]) -> tuple[Path, bytes, About] | FoveaError:
        source, target, loaded = item
        try:
            return target, *code(loaded)
        except FoveaError as error:
            return FoveaError(f"{source}: {error}")

    for done in in_order(coded, opened(), threads=threads):
        if isinstance(done, FoveaError):
            missed(done)
            continue
        target, data, about = done
        write_whole(target, data)
        yield target, data, about


def _check_maps(codec: Codec, several: bool, use_saliency: bool | None, maps: Path | None) -> None:
    if (use_saliency or maps is not None) and codec.config.mechanism not in NEEDS_MAP:
        raise FoveaError(f"the model does not take a saliency map (mechanism {codec.config.mechanism})")
    if maps is None:
        return
    if use_saliency is False:
        raise FoveaError("give either maps or no saliency, not both")
    if not maps.exists():
        raise FoveaError(f"no such file: {maps}")
    if several and not maps.is_dir():
        raise FoveaError(f"{maps}: several pictures need a folder with a map of the same name for each")


def compress_files(
    work: Sequence[tuple[Path, Path]],
    codec: Codec,
    *,
    lmbda: float | None = None,
    bpp: float | None = None,
    use_saliency: bool | None = None,
    maps: Path | None = None,
    threads: int = 0,
    failed: list[str] | None = None,
) -> Iterator[tuple[Path, int, float]]:
    """Write a .fov file for each picture; yields its path, bytes and bpp, in order.

    bpp: each picture's level is searched for it. use_saliency: None, give a map to a codec that takes one; False, every
    place counts alike. maps: the map itself, or a folder with one of the same name for each picture (`own_map`), in place
    of the saliency model's. failed: gets what is wrong with each picture that cannot be read or coded, and the others go on;
    None: the first one ends it. Raises FoveaError then, and for a map that the codec does not take.
    """
    _check_maps(codec, len(work) > 1, use_saliency, maps)
    takes = codec.config.mechanism in NEEDS_MAP
    predictor: Any = None
    if takes and use_saliency is not False and maps is None:
        from models.saliency.predict import load_model

        predictor = load_model(DEFAULT_SALIENCY)

    def read(source: Path) -> tuple[Picture, Picture | None]:
        picture = read_picture(source)
        if maps is not None:
            return picture, own_map(maps, source, picture)
        if predictor is not None:
            return picture, predictor.predict([picture])[0]
        return picture, np.full(picture.shape[:2], 255, np.uint8) if takes else None

    def code(loaded: tuple[Picture, Picture | None]) -> tuple[bytes, int]:
        picture, given = loaded
        at = lmbda
        if bpp is not None:
            from models.codecs.target_rate import search_rate

            at = search_rate(codec, [picture], None if given is None else [given], bpp).lmbda
        encoded = codec.encode(picture, saliency_map=given, rate=at)
        return encoded.data, picture.shape[0] * picture.shape[1]

    codec.name()
    for target, data, pixels in _each(work, read, code, threads, failed):
        yield target, len(data), 8 * len(data) / pixels


def own_map(maps: Path, source: Path, picture: Picture) -> Picture:
    """A picture's map, H×W uint8, from the file `maps` or from that of the same name in the folder `maps`: a saliency map, or
    a label map that is 0 where nothing matters.

    Raises FoveaError where there is none, for colours, and for another size than the picture's.
    """
    path = maps
    if maps.is_dir():
        found = sorted(p for p in maps.iterdir() if p.stem == source.stem and p.is_file())
        if len(found) != 1:
            several = f"{len(found)} maps" if found else "no map"
            raise FoveaError(f"{maps} has {several} for {source.name}: one file with the same name is needed")
        path = found[0]
    shown = read_picture(path)
    if (shown != shown[..., :1]).any():
        raise FoveaError(f"{path} has colours: a map is grey, 0 where nothing matters")
    if shown.shape != picture.shape:
        raise FoveaError(
            f"{path} has {shown.shape[1]}×{shown.shape[0]} pixels, {source} has {picture.shape[1]}×{picture.shape[0]}"
        )
    return np.ascontiguousarray(shown[..., 0])


def decompress_files(
    work: Sequence[tuple[Path, Path]],
    codec_for: Callable[[bytes], Codec],
    *,
    threads: int = 0,
    failed: list[str] | None = None,
) -> Iterator[tuple[Path, int, int]]:
    """Write a PNG for each .fov file; yields its path, width and height, in order. codec_for: what made a file.

    failed: gets what is wrong with each file that cannot be decoded, and the others go on; None: the first one ends it.
    Raises FoveaError then, which names the file.
    """

    def read(source: Path) -> tuple[bytes, Codec]:
        try:
            data = source.read_bytes()
            codec = codec_for(data)
            codec.name()
        except OSError as error:
            raise FoveaError(f"cannot read {source}: {error.strerror}") from error
        except FoveaError as error:
            raise FoveaError(f"{source}: {error}") from error
        return data, codec

    def code(loaded: tuple[bytes, Codec]) -> tuple[bytes, tuple[int, int]]:
        data, codec = loaded
        picture = codec.decode(data)
        return encode_png(picture), (picture.shape[1], picture.shape[0])

    for target, _, (width, height) in _each(work, read, code, threads, failed):
        yield target, width, height


def pictures_in(folder: Path) -> list[str]:
    """Names of the pictures below a folder."""
    return [str(p) for p in find_pictures(folder)]


def files_in(folder: Path) -> list[str]:
    """Names of the .fov files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.fov") if p.is_file())
