"""Fovea from Python: what its command line does, on arrays and files.

Pictures are uint8 H×W×3 arrays, or files of any format that `fovea` reads; saliency maps are uint8 H×W arrays, 0 where
nothing matters, or grey pictures. Errors that a caller can mend are FoveaError.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

__all__ = ["FoveaError", "benchmark", "compress", "decompress", "load", "saliency"]


def load(model: str = "light") -> "Codec":
    """A codec by its shipped name, its experiment's key, its folder, or its MLflow address (models:/NAME/1,
    models:/NAME@ALIAS). Raises FoveaError for what is none of them."""
    from pipelines.commands.options import codec_named

    return codec_named(model)


def saliency(picture: "Given", model: str = "sam_lite") -> "Picture":
    """Where people look: the map of a picture, uint8 H×W, 255 at its peak. model: a built-in one or one that ships."""
    from models.saliency.predict import load_model

    return load_model(model).predict([_picture(picture)])[0]


def compress(
    picture: "Given",
    *,
    bpp: float | None = None,
    lmbda: float | None = None,
    saliency: "Given | bool" = True,
    span: float | None = None,
    effort: int = 0,
    progressive: bool = False,
    model: "Codec | str" = "light",
) -> bytes:
    """A .fov file's bytes.

    bpp: bits per pixel of the file, as near as levels allow; lmbda: the rate as a Lagrange multiplier of 255² · MSE; one of
    the two, or the middle of the codec's range. saliency: a map of one's own; True: SAM-Lite's; False: every place counts
    alike. span: by how many rate levels the map's most salient place stands above its least; None: as the codec was trained. effort: steps of refinement. progressive: a file of which any beginning shows a picture, cut to `bpp` exactly.
    model: a codec, or what `load` takes; load once to compress many. Raises FoveaError for what can't be read, and for a rate
    that the codec does not reach.
    """
    from assets.evaluation.code_files import encode_picture, own_map, predicted_map
    from models.mechanisms import NEEDS_MAP

    codec, shown = load(model) if isinstance(model, str) else model, _picture(picture)
    takes = codec.config.mechanism in NEEDS_MAP
    guide = None
    if saliency is True:
        guide = predicted_map()(shown) if takes else None
    elif saliency is not False:
        if not takes:
            raise FoveaError(f"the model does not take a saliency map (mechanism {codec.config.mechanism})")
        guide = own_map(Path(saliency), Path("the picture"), shown) if isinstance(saliency, str | Path) else saliency
    coded = encode_picture(codec, shown, guide, lmbda=lmbda, bpp=bpp, span=span, effort=effort, progressive=progressive)
    return coded.data


def decompress(data: bytes | Path | str, model: "Codec | str | None" = None) -> "Picture":
    """The picture of a .fov file, uint8 H×W×3. data: its bytes or its path. model: who made it, where that is no codec that
    ships. Raises FoveaError for a damaged file and for one of another model."""
    from models.codecs.catalogue import codec_for

    held = data if isinstance(data, bytes) else _bytes(Path(data))
    codec = codec_for(held) if model is None else load(model) if isinstance(model, str) else model
    return codec.decode(held)


def benchmark(
    dataset: str, codecs: Sequence[str] = (), peers: Sequence[str] = (), judges: Sequence[str] = ()
) -> "Benchmark":
    """Codecs against each other and against classical ones on a registered dataset: curves and BD-rates as tables, and a
    page. codecs: shipped names or experiments' keys, empty for all that ship. peers: classical codecs, empty for the
    dataset's. judges: such as "ocr", which an extra installs. Raises FoveaError for a name that is not known, and where
    something could not be made."""
    from pipelines.commands.evidence import benchmark_made
    from pipelines.commands.options import chain_here

    return benchmark_made(chain_here(), dataset, codecs, peers, judges)


def _picture(given: "Given") -> "Picture":
    from assets.frames.decode import read_picture

    return read_picture(Path(given)) if isinstance(given, str | Path) else given


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FoveaError(f"no such file: {path}") from None
    except OSError as error:
        raise FoveaError(f"cannot read {path}: {error.strerror}") from error
