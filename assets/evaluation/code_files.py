"""Pictures to .fov files and back, one or whole folders, over all cores."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import find_pictures
from assets.home import written_beside
from models.codecs.base import Codec, Encoded, Picture
from models.codecs.batch import encode_many, in_order
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY

NEEDS_MAP = ("gain", "concat", "sft", "select")


def targets_of(
    sources: Sequence[Path], output: Path, suffix: str, inside: Callable[[Path], Sequence[str]]
) -> list[tuple[Path, Path]]:
    """What is read and where it is written: the named file for one source, else a folder in which given folders are mirrored.

    inside: the names below a folder that count. Raises FoveaError for a missing source, two that would meet in one file,
    and an output that does not fit.
    """
    for source in sources:
        if not source.exists():
            raise FoveaError(f"no such file: {source}")
    if len(sources) == 1 and not sources[0].is_dir():
        if output.is_dir():
            raise FoveaError(
                f"{output} is a folder: name the file to write, for example {output / sources[0].stem}{suffix}"
            )
        return [(sources[0], output)]
    work: list[tuple[Path, Path]] = []
    for source in sources:
        if source.is_dir():
            work += [(source / p, output / Path(p).with_suffix(suffix)) for p in inside(source)]
        else:
            work.append((source, output / f"{source.stem}{suffix}"))
    if not work:
        raise FoveaError(f"nothing to do in {', '.join(map(str, sources))}")
    if output.exists() and not output.is_dir():
        raise FoveaError(f"{output} is a file: several results need a folder")
    targets = [t for _, t in work]
    if len(set(targets)) < len(targets):
        twice = sorted(t for t in set(targets) if targets.count(t) > 1)[0]
        raise FoveaError(f"two files would both be written to {twice}: give their folder instead")
    return work


def compress_files(
    work: Sequence[tuple[Path, Path]],
    codec: Codec,
    *,
    lmbda: float | None = None,
    bpp: float | None = None,
    use_saliency: bool | None = None,
    threads: int = 0,
) -> Iterator[tuple[Path, int, float]]:
    """Write a .fov file for each picture; yields its path, bytes and bpp, in order.

    bpp: each picture's level is searched for it. use_saliency: None, give a map to a codec that takes one; False, every place counts alike. Raises FoveaError for a
    picture that cannot be read, before its file is written, and for a map that the codec does not take.
    """
    takes = codec.config.mechanism in NEEDS_MAP
    if use_saliency and not takes:
        raise FoveaError(f"the model does not take a saliency map (mechanism {codec.config.mechanism})")
    predictor: Any = None
    if takes and use_saliency is not False:
        from models.saliency.predict import load_model

        predictor = load_model(DEFAULT_SALIENCY)
    sizes: list[int] = []

    def pictures() -> Iterator[tuple[Picture, Picture | None]]:
        for source, _ in work:
            picture = read_picture(source)
            sizes.append(picture.shape[0] * picture.shape[1])
            if not takes:
                yield picture, None
            elif predictor is None:
                yield picture, np.full(picture.shape[:2], 255, np.uint8)
            else:
                yield picture, predictor.predict([picture])[0]

    def searched(item: tuple[Picture, Picture | None]) -> Encoded:
        from models.codecs.target_rate import search_rate

        picture, given = item
        found = search_rate(codec, [picture], None if given is None else [given], bpp or 0.0)
        return codec.encode(picture, saliency_map=given, lmbda=found.lmbda)

    codec.name()
    if bpp is None:
        files = encode_many(codec, pictures(), lmbda=lmbda, threads=threads)
    else:
        files = in_order(searched, pictures(), threads=threads)
    for place, encoded in enumerate(files):
        target = work[place][1]
        with written_beside(target) as beside:
            beside.write_bytes(encoded.data)
        yield target, len(encoded.data), 8 * len(encoded.data) / sizes[place]


def decompress_files(
    work: Sequence[tuple[Path, Path]], codec_for: Callable[[bytes], Codec], *, threads: int = 0
) -> Iterator[tuple[Path, int, int]]:
    """Write a PNG for each .fov file; yields its path, width and height, in order. codec_for: what made a file.

    Raises FoveaError that names the file.
    """

    def opened() -> Iterator[tuple[Path, bytes, Codec]]:
        for source, _ in work:
            try:
                data = source.read_bytes()
            except OSError as error:
                raise FoveaError(f"cannot read {source}: {error.strerror}") from error
            try:
                codec = codec_for(data)
            except FoveaError as error:
                raise FoveaError(f"{source}: {error}") from error
            codec.name()
            yield source, data, codec

    def decode(item: tuple[Path, bytes, Codec]) -> tuple[bytes, int, int]:
        source, data, codec = item
        try:
            picture = codec.decode(data)
        except FoveaError as error:
            raise FoveaError(f"{source}: {error}") from error
        return encode_png(picture), picture.shape[1], picture.shape[0]

    for place, (png, width, height) in enumerate(in_order(decode, opened(), threads=threads)):
        target = work[place][1]
        with written_beside(target) as beside:
            beside.write_bytes(png)
        yield target, width, height


def pictures_in(folder: Path) -> list[str]:
    """Names of the pictures below a folder."""
    return [str(p) for p in find_pictures(folder)]


def files_in(folder: Path) -> list[str]:
    """Names of the .fov files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.fov") if p.is_file())
