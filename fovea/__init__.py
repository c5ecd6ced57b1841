"""Fovea from Python: what its command line does, on arrays and files.

Pictures are uint8 H×W×3 arrays, or files of any format that `fovea` reads; saliency maps are uint8 H×W arrays, 0 where
nothing matters, or grey pictures. Errors that a caller can mend are FoveaError.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

if sys.argv[0] == "-m" and "fovea" in sys.orig_argv:
    # as for the command `fovea`, no package of the working folder stands before ours
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models as _models

if not (Path(_models.__file__ or "").parent / "codecs" / "catalogue.py").is_file():
    raise ImportError(
        f"another package named models hides Fovea's: {_models.__file__}; import fovea where that is not on sys.path, or "
        "before it"
    )

from models.errors import FoveaError

if TYPE_CHECKING:
    from assets.evaluation.benchmark import Benchmark
    from models.codecs.base import Codec, Picture

    Given = Picture | Path | str
    Data = bytes | bytearray | memoryview | Path | str

__all__ = ["FoveaError", "__version__", "benchmark", "compress", "cut", "decompress", "load", "saliency"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> str:
    """The installed version, which a mere copy of the code does not have."""
    if name != "__version__":
        raise AttributeError(f"module 'fovea' has no attribute {name!r}")
    from importlib.metadata import version

    return version("fovea")


def load(model: Path | str = "light") -> "Codec":
    """A codec by its shipped name, its experiment's key, its folder, or its MLflow address (models:/NAME/1,
    models:/NAME@ALIAS). Warns of one that failed the codec doctor. Raises FoveaError for what is none of them."""
    from pipelines.commands.options import codec_named

    return codec_named(_name(model, "model"), functools.partial(warnings.warn, stacklevel=3))


def saliency(picture: "Given", model: str = "sam_lite") -> "Picture":
    """Where people look: the map of a picture, uint8 H×W, 255 at its peak. model: a built-in one or one that ships."""
    from models.saliency.predict import load_model

    return load_model(_name(model, "model")).predict([_picture(picture)])[0]


def compress(
    picture: "Given",
    *,
    bpp: float | None = None,
    lmbda: float | None = None,
    saliency: "Given | bool" = True,
    span: float | None = None,
    effort: int = 0,
    progressive: bool = False,
    model: "Codec | Path | str" = "light",
) -> bytes:
    """A .fov file's bytes.

    bpp: bits per pixel of the file, as near as levels allow; lmbda: the rate as a Lagrange multiplier of 255² · MSE;
    one of the two, or the middle of the codec's range. saliency: a map of one's own; True: SAM-Lite's; False: every
    place counts alike. span: by how many rate levels the map's most salient place stands above its least; None: as the
    codec was trained. effort: steps of refinement. progressive: a file of which any beginning shows a picture, cut to
    at most `bpp`. model: a codec, or what `load` takes; load once to compress many. Raises FoveaError for what can't be
    read, is of another kind, or does not go together, and for a rate that the codec does not reach.
    """
    from assets.evaluation.code_files import check_fits, encode_picture
    from assets.saliency.own_maps import own_map
    from models.codecs.batch import one_torch_thread
    from models.mechanisms import NEEDS_MAP

    _numbers(Real, bpp=bpp, lmbda=lmbda, span=span)
    _numbers(Integral, effort=effort)
    if not isinstance(progressive, bool):
        raise FoveaError(f"progressive {progressive!r}: True or False is needed")
    codec, shown = _codec(model), _picture(picture)
    check_fits(picture if isinstance(picture, str | Path) else "the picture", shown)
    takes = codec.config.mechanism in NEEDS_MAP
    guide = None
    if saliency is True:
        guide = _looker()(shown) if takes else None
    elif saliency is not False:
        if not takes:
            raise FoveaError(f"the model does not take a saliency map (mechanism {codec.config.mechanism})")
        if isinstance(saliency, str | Path):
            guide = own_map(Path(saliency), Path("the picture"), shown.shape)
        else:
            guide = _array(saliency, "saliency", "H×W, a path, True or False")
    elif takes and span is not None:
        raise FoveaError("give either a span, which parts rate levels by a map, or saliency=False, not both")
    with one_torch_thread():
        return encode_picture(
            codec, shown, guide, lmbda=lmbda, bpp=bpp, span=span, effort=effort, progressive=progressive
        ).data


def decompress(data: "Data", model: "Codec | Path | str | None" = None) -> "Picture":
    """The picture of a .fov file, uint8 H×W×3. data: its bytes or its path. model: who made it, where that is no codec that
    ships. Raises FoveaError for a damaged file and for one of another model."""
    from models.codecs.batch import one_torch_thread
    from models.codecs.catalogue import maker_of

    held = _bytes(data)
    codec = _codec(model if model is not None else maker_of(held, "name its folder or key with model="))
    with one_torch_thread():
        return codec.decode(held)


def cut(data: "Data", *, bytes: int | None = None, bpp: float | None = None) -> bytes:
    """The beginning of a progressive file as a file of the same picture, without a model. data: its bytes or its path.
    bytes, bpp: what the new file has at most; one of the two. A file that is no larger comes back as it is; of one that
    broke off, what no checksum follows is left out. Raises FoveaError for another file, for one that is damaged in what
    is kept, and for fewer bytes than a picture needs."""
    from models.codecs import bitstream
    from models.validation import check_rates

    _numbers(Integral, bytes=bytes)
    _numbers(Real, bpp=bpp)
    check_rates(None, bpp)
    if (bytes is None) == (bpp is None):
        raise FoveaError("give the size either as bytes or as bpp")
    held = _bytes(data)
    return bitstream.cut(held, bytes or 0 if bpp is None else bitstream.size_at(held, bpp))


def benchmark(
    dataset: str, codecs: Sequence[str] | str = (), peers: Sequence[str] | str = (), judges: Sequence[str] | str = ()
) -> "Benchmark":
    """Codecs against each other and against classical ones on a registered dataset: curves and BD-rates as tables, and a
    page. codecs: shipped names or experiments' keys, empty for all that ship. peers: classical codecs, empty for the
    dataset's. judges: such as "ocr", which an extra installs. Raises FoveaError for a name that is not known, and where
    something could not be made."""
    from pipelines.commands.evidence import benchmark_made
    from pipelines.commands.options import chain_here

    asked = _names(codecs, "codecs"), _names(peers, "peers"), _names(judges, "judges")
    return benchmark_made(chain_here(), _name(dataset, "dataset"), *asked)


def _codec(given: "Codec | Path | str") -> "Codec":
    from models.codecs.base import Codec
    from models.codecs.catalogue import shipped

    if isinstance(given, Codec):
        return given
    return _shipped_codec(name) if (name := _name(given, "model")) in shipped() else load(name)


@functools.cache
def _shipped_codec(name: str) -> "Codec":
    """Kept for the calls to come: a codec that ships does not change."""
    return load(name)


@functools.cache
def _looker() -> "Callable[[Picture], Picture | None]":
    from assets.evaluation.code_files import predicted_map

    return predicted_map()


def _picture(given: "Given") -> "Picture":
    from assets.frames.decode import read_picture
    from models.codecs.base import check_picture

    if isinstance(given, str | Path):
        return read_picture(Path(given))
    return check_picture(_array(given, "a picture", "H×W×3, or a path"))


def _name(given: object, what: str) -> str:
    if not isinstance(given, str | Path):
        raise FoveaError(f"{what}: a name or a path is needed; got {type(given).__name__}")
    return str(given)


def _names(given: object, what: str) -> list[str]:
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [_name(name, what) for name in given]
    return [_name(given, what)]


def _array(given: object, what: str, kinds: str) -> "Picture":
    import numpy as np

    if not isinstance(given, np.ndarray):
        raise FoveaError(f"{what} is an array, uint8 {kinds}; got {type(given).__name__}")
    return given


def _numbers(kind: type, **given: object) -> None:
    for name, value in given.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise FoveaError(f"{name} {value!r}: a {'whole ' * (kind is Integral)}number is needed")


def _bytes(given: "Data") -> bytes:
    if not isinstance(given, str | Path):
        try:
            return bytes(memoryview(given))
        except TypeError:
            raise FoveaError(f"a .fov file is given as its bytes or its path; got {type(given).__name__}") from None
    from assets.home import read_whole

    return read_whole(Path(given))
