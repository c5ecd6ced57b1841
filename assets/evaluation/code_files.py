"""Pictures to .fov files and back, one or whole folders, over all cores."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from assets.frames.decode import MIN_SIDE, read_picture
from assets.frames.encode import encode_png
from assets.frames.targets import files_in, mirrored, signed
from assets.home import check_ours, read_whole, write_output
from assets.saliency.own_maps import find_maps, own_map
from models.codecs import bitstream
from models.codecs.base import Codec, Encoded, Picture
from models.codecs.batch import in_order
from models.codecs.bitstream import BitstreamError
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY, check_span
from models.mechanisms import NEEDS_MAP
from models.memory import Room, physical_bytes
from models.metrics import psnr_db
from models.threads import check_stopped
from models.validation import check_rates

Loaded = TypeVar("Loaded")
About = TypeVar("About")


BYTES_A_PIXEL = 220
"""What coding a picture takes at its peak, measured with `light`."""


def _each(
    work: Sequence[tuple[Path, Path]],
    read: Callable[[Path], tuple[int, Loaded]],
    code: Callable[[Path, Loaded], tuple[bytes, About]],
    failed: list[str] | None,
) -> Iterator[About]:
    """Read the sources here, code several at once, as many as memory has room for by their pixels, and write each target beside
    and rename it; yields what `code` says of each, in order. read: pixels, and what `code` is given with the target. What is
    wrong with a source goes to `failed`, or is raised where that is None."""
    room = Room(0.7 * physical_bytes())

    def missed(error: FoveaError) -> None:
        if failed is None:
            raise error
        failed.append(str(error))

    def opened() -> Iterator[tuple[Path, Path, int, Loaded]]:
        for source, target in work:
            try:
                yield source, target, *read(source)
            except FoveaError as error:
                missed(error)

    def coded(item: tuple[Path, Path, int, Loaded]) -> tuple[Path, bytes, About] | FoveaError:
        source, target, pixels, loaded = item
        try:
            with room.taken(BYTES_A_PIXEL * pixels):
                check_stopped()
                return target, *code(target, loaded)
        except FoveaError as error:
            return FoveaError(f"{source}: {error}")

    for done in in_order(coded, opened()):
        if isinstance(done, FoveaError):
            missed(done)
            continue
        target, data, about = done
        write_output(target, data)
        yield about


class Guide(NamedTuple):
    """How the bits of a picture are shared out: by the saliency model's map, evenly (`uniform`), or by a map of one's own
    (`maps`: the file, or a folder with one of the same name for each picture, `find_maps`). span: how far the map parts the
    rate levels, 0 to MAX_SPAN; None: as far as the codec was trained for."""

    uniform: bool = False
    maps: Path | None = None
    span: float | None = None

    def check(self, mechanism: str, several: bool) -> None:
        """Raises FoveaError for what does not go together, or not with the codec's mechanism."""
        if self.span is not None:
            check_span(self.span)
            if self.uniform:
                raise FoveaError("give either a span, which parts rate levels by a map, or --uniform, not both")
        if self.maps is None:
            return
        if self.uniform:
            raise FoveaError("give either a map or --uniform, not both")
        if mechanism not in NEEDS_MAP:
            raise FoveaError(
                f"the model does not take a saliency map (mechanism {mechanism}); of those that ship light does"
            )
        if not self.maps.exists():
            raise FoveaError(f"no such file: {self.maps}")
        if several and not self.maps.is_dir():
            raise FoveaError(f"{self.maps}: several pictures need a folder with a map of the same name for each")


GUIDED = Guide()


class Compressed(NamedTuple):
    """What is said of a file. looked_at_db: PSNR weighted by the map that guided it, else by what a saliency model says; NaN
    where the picture is too small for that, or the map empty. seconds: of reading, coding, and predicting what guides."""

    path: Path
    size: int
    bpp: float
    psnr_db: float
    looked_at_db: float
    seconds: float


def predicted_map() -> Callable[[Picture], Picture | None]:
    """What the default model says of a picture, H×W uint8; None for one that is too small to look around in."""
    from models.saliency.predict import load_model

    predictor = load_model(DEFAULT_SALIENCY)
    return lambda picture: predictor.predict([picture])[0] if min(picture.shape[:2]) >= MIN_SIDE else None


#: a picture and what guides it, to the file and the picture that it shows
Coder = Callable[[Picture, Picture | None], tuple[bytes, Picture]]


def _compressed(
    work: Sequence[tuple[Path, Path]],
    coder: Coder,
    guide: Guide,
    guided: bool,
    failed: list[str] | None,
    check: Callable[[Path, Picture], None] = lambda source, picture: None,
) -> Iterator[Compressed]:
    """check: of each picture, before it is looked at."""
    maps = find_maps(guide.maps, [source for source, _ in work]) if guide.maps else {}
    predicted = None if guide.maps else predicted_map()
    guided = guided and not guide.uniform

    def read(source: Path) -> tuple[int, tuple[float, Picture, Picture | None]]:
        began = time.perf_counter()
        picture = read_picture(source)
        check(source, picture)
        asked = time.perf_counter()
        looked_at = predicted(picture) if predicted else None
        if isinstance(own := maps.get(source), FoveaError):
            raise own
        if own is not None:
            looked_at = own_map(own, source, picture.shape)
        if not guided:  # a map that only measures is no part of the coding
            began += time.perf_counter() - asked
        return picture[..., 0].size, (began, picture, looked_at)

    def code(target: Path, loaded: tuple[float, Picture, Picture | None]) -> tuple[bytes, Compressed]:
        began, picture, looked_at = loaded
        data, shown = coder(picture, looked_at if guided else None)
        seconds = time.perf_counter() - began
        bpp = 8 * len(data) / picture[..., 0].size
        psnr, looked = psnr_db(picture, shown), float("nan")
        if looked_at is not None and looked_at.any():
            looked = psnr_db(picture, shown, looked_at)
        return data, Compressed(target, len(data), bpp, psnr, looked, seconds)

    return _each(work, read, code, failed)


def compress_files(
    work: Sequence[tuple[Path, Path]],
    codec: Codec,
    *,
    lmbda: float | None = None,
    bpp: float | None = None,
    guide: Guide = GUIDED,
    effort: int = 0,
    progressive: bool = False,
    failed: list[str] | None = None,
) -> Iterator[Compressed]:
    """Write a .fov file for each picture; yields what is to be said of each, in order.

    bpp: each picture's level is searched for it; progressive files are cut to it. guide: a codec that takes no map is
    never guided. effort: steps of refinement (models/codecs/effort.py). failed: gets what is wrong with each picture
    that cannot be read or coded, and the others go on; None: the first one ends it. Raises FoveaError then, and for a
    map that the codec does not take.
    """
    guide.check(codec.config.mechanism, len(work) > 1)

    def coder(picture: Picture, looked_at: Picture | None) -> tuple[bytes, Picture]:
        encoded = encode_picture(
            codec, picture, looked_at, lmbda=lmbda, bpp=bpp, span=guide.span, effort=effort, progressive=progressive
        )
        return encoded.data, encoded.reconstruction

    codec.name()
    return _compressed(work, coder, guide, codec.config.mechanism in NEEDS_MAP, failed, check_fits)


def check_fits(name: Path | str, picture: Picture) -> None:
    """Raises FoveaError that names the picture where it is too large for a .fov file."""
    try:
        bitstream.check_size(picture.shape[1], picture.shape[0])
    except FoveaError as error:
        raise FoveaError(f"{name}: {error}") from None


def encode_picture(
    codec: Codec,
    picture: Picture,
    saliency_map: Picture | None,
    *,
    lmbda: float | None = None,
    bpp: float | None = None,
    span: float | None = None,
    effort: int = 0,
    progressive: bool = False,
) -> Encoded:
    """One file. saliency_map: H×W uint8; None: every place counts alike. span: as Guide has it. Other arguments as
    `compress_files`."""
    check_rates(lmbda, bpp)
    if effort < 0:
        raise FoveaError(f"effort {effort}: a number of steps is needed")
    if progressive and effort and bpp is not None:
        raise FoveaError(
            "effort makes a file smaller than the bpp that a progressive one is cut to: give a lmbda with it"
        )
    if span is not None:
        check_span(span)
        if codec.config.mechanism != "gain":
            raise FoveaError(f"a span is for a codec with mechanism gain, not {codec.config.mechanism}")
    given = saliency_map
    if given is None and codec.config.mechanism in NEEDS_MAP:
        given = np.full(picture.shape[:2], 255, np.uint8)
    analysed = codec.analysed(picture, given)._replace(span=span)
    at = lmbda
    if bpp is not None and not progressive:
        from models.codecs.target_rate import search_rate

        at = search_rate(codec, analysed, bpp)
    if effort:
        from models.codecs.effort import refine

        analysed = refine(codec, picture, analysed, at, effort)
    if progressive:
        from models.codecs.target_rate import encode_progressive

        return encode_progressive(codec, analysed, at, bpp)
    return codec.encode_analysed(analysed, at)


JPEG_QUALITY = 80
COMPRESS, DECOMPRESS = "fovea compress", "fovea decompress"

FRAMES = 8
"""Pictures that a progressive file is shown in, at most, each from twice the bytes of the one before."""


def compress_jpeg(source: Path, target: Path, *, bpp: float | None = None, guide: Guide = GUIDED) -> Compressed:
    """Write a JPEG whose coefficients follow the map (models/codecs/guided_jpeg.py), at JPEG_QUALITY or as the largest file
    of at most `bpp`. Raises FoveaError as `compress_files`, and where no quality is that small."""
    guide.check("gain", several=False)

    def coder(picture: Picture, looked_at: Picture | None) -> tuple[bytes, Picture]:
        from models.codecs import classical, guided_jpeg

        if bpp is None:
            data = guided_jpeg.encode(picture, JPEG_QUALITY, looked_at)
        else:
            data, _ = guided_jpeg.encode_to_size(picture, bpp, looked_at, spare=len(signed(b"", COMPRESS)))
        data = signed(data, COMPRESS)
        return data, classical.decode("jpeg", data)

    (said,) = _compressed([(source, target)], coder, guide, True, None)
    return said


class Decompressed(NamedTuple):
    """What is said of a decoded file. size: its bytes, as far as they were read. whole: how many it has when nothing is
    cut off."""

    path: Path
    width: int
    height: int
    size: int
    whole: int


def decompress_files(
    work: Sequence[tuple[Path, Path]],
    codec_for: Callable[[bytes], Codec],
    *,
    sizes: Sequence[int] | None = None,
    failed: list[str] | None = None,
) -> Iterator[Decompressed]:
    """Write a PNG for each .fov file; yields what is to be said of each, in order. codec_for: what made a file. sizes: how
    many bytes of each are taken, which progressive files allow; None: all.

    failed: gets what is wrong with each file that cannot be decoded, and the others go on; None: the first one ends it.
    Raises FoveaError then, which names the file.
    """

    taken = iter(sizes or itertools.repeat(None))

    def read(source: Path) -> tuple[int, tuple[bytes, Codec]]:
        size, data = next(taken), read_whole(source)
        try:
            if size is not None:
                data = bitstream.beginning(data, size)
            codec, held = codec_for(data), bitstream.unpack(data)
            codec.name()
        except FoveaError as error:
            raise FoveaError(f"{source}: {error}") from error
        return held.width * held.height, (data, codec)

    def code(target: Path, loaded: tuple[bytes, Codec]) -> tuple[bytes, Decompressed]:
        data, codec = loaded
        picture = codec.decode(data)
        said = Decompressed(target, picture.shape[1], picture.shape[0], len(data), bitstream.unpack(data).whole())
        return signed(encode_png(picture), DECOMPRESS), said

    return _each(work, read, code, failed)


def frame_work(files: Sequence[Path], folder: Path) -> tuple[list[tuple[Path, Path, int]], list[str]]:
    """Progressive files, also those in folders, a PNG below `folder` for each of their frames, and how many bytes it shows: all
    of them, half of them, and so on, while these hold a picture. With them, what is wrong with files that have none, or whose
    largest would show what is damaged. Raises FoveaError for two of one name, and where something else has a PNG's name."""
    work, failed = [], []
    for file, target in mirrored(files, folder, ".png", files_in, DECOMPRESS.encode()):
        try:
            data = read_whole(file)
        except FoveaError as error:
            failed.append(str(error))
            continue
        sizes, wrong = _frame_sizes(data)
        failed += [f"{file}: {wrong}"] if wrong else []
        work += [(file, target.with_name(f"{target.stem}.{size:07}.png"), size) for size in sizes]
    for _, target, _ in work:
        check_ours(target, DECOMPRESS.encode())
    return work, failed


def _frame_sizes(data: bytes) -> tuple[list[int], FoveaError | None]:
    """From the largest on; and why there are none, or none of all bytes."""
    sizes, wrong = [], None
    try:
        least = bitstream.first_part(data)
    except FoveaError as error:
        return [], error
    for size in (len(data) >> halved for halved in range(FRAMES)):
        try:
            if size >= least:
                sizes.append(len(bitstream.beginning(data, size)))
        except BitstreamError as error:
            wrong = wrong or error
    return list(dict.fromkeys(sizes)), wrong
