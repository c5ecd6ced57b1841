"""`fovea compress`, `decompress`, `cut`, `saliency`, `saliency-weights`: single pictures, and the weights that they need."""

import contextlib
import math
from pathlib import Path
from typing import Any

import click

from models.errors import FoveaError
from models.mechanisms import MAX_SPAN, NEEDS_MAP
from models.validation import check_rates, printable
from pipelines.commands import options
from pipelines.commands.options import PATH, chain_here

DEFAULT_CODEC = "light"


@click.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
@options.output("The .fov or .jpg file to write; a folder of .fov files for several pictures.", required=True)
@click.option("--model", default=DEFAULT_CODEC, show_default=True, help=f"{options.CODEC}.")
@click.option(
    "--lmbda", type=float, help="Rate, within the model's range: the Lagrange multiplier; for toderici2017 iterations."
)
@click.option(
    "--bpp",
    type=float,
    help="Rate: bits per pixel of the file, as near as levels allow; with --progressive to a few bytes, and never more.",
)
@click.option("--uniform", is_flag=True, help="Every place counts alike: no saliency.")
@click.option(
    "--map",
    "maps",
    type=PATH,
    help="A grey picture that says what matters, 0 where nothing does, in place of the saliency model; for several a folder "
    "with a map of each one's name, in the same folders as they.",
)
@click.option(
    "--span",
    type=options.Number(0, MAX_SPAN),
    help="By how many rate levels the most salient place stands above the least; default: 4, as light was trained.",
)
@click.option(
    "--effort",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Steps of refinement, in tens (10: most of what there is; 100: the rest): fewer bits for as good a picture. A step takes as long as three decodings.",
)
@click.option(
    "--progressive",
    is_flag=True,
    help="A file of which any beginning shows a picture, first where people look (--uniform: everywhere alike).",
)
def compress(
    images: tuple[Path, ...],
    output: Path,
    model: str,
    lmbda: float | None,
    bpp: float | None,
    uniform: bool,
    maps: Path | None,
    span: float | None,
    effort: int,
    progressive: bool,
) -> None:
    """Compress a picture to a .fov file, or pictures and folders of them over all cores.

    \b
    Places where people look get more of the bits, with a model that takes a map (--uniform: all alike). Prints bytes,
    bits per pixel, PSNR, PSNR weighted by the map, and seconds. `-o photo.jpg` writes a JPEG that everything opens: its
    coefficients follow the map, its decoder knows nothing of it.
    """
    from assets.frames.folder import find_pictures
    from assets.frames.targets import targets_of

    check_rates(lmbda, bpp, "--")
    jpeg = output.suffix.lower() in (".jpg", ".jpeg") and not output.is_dir()
    if jpeg and (model != DEFAULT_CODEC or lmbda is not None or effort or progressive or span is not None):
        raise FoveaError(
            f"{output}: --model, --lmbda, --span, --effort and --progressive are of .fov files; "
            "a JPEG takes --bpp, --uniform and --map"
        )
    if not jpeg:
        _check_ending(images, output, ".fov", "compressed pictures are .fov files, or one .jpg")
    elif len(images) > 1 or images[0].is_dir():
        raise FoveaError(f"{output}: a JPEG is made of one picture; several go to a folder of .fov files")
    work = targets_of(images, output, output.suffix if jpeg else ".fov", find_pictures, "fovea compress")
    # torch is loaded from here on: what can be refused without it has been
    from assets.evaluation.code_files import Guide, compress_files, compress_jpeg

    guide = Guide(uniform, maps, span)
    failed: list[str] | None = [] if len(work) > 1 else None
    if jpeg:
        made = iter([compress_jpeg(*work[0], bpp=bpp, guide=guide)])
    else:
        codec = options.codec_named(model)
        asked: dict[str, Any] = {"lmbda": lmbda, "bpp": bpp, "effort": effort, "progressive": progressive}
        made = compress_files(work, codec, guide=guide, failed=failed, **asked)
        if guide == Guide() and codec.config.mechanism not in NEEDS_MAP:
            click.echo(f"{model} takes no map: all places count alike", err=True)
    for said in made:
        where = "where the map points" if maps else "where people look"
        looked = "" if math.isnan(said.looked_at_db) else f", {said.looked_at_db:.2f} dB {where}"
        click.echo(
            f"{printable(said.path)}: {said.size} bytes, {said.bpp:.4f} bpp, {said.psnr_db:.2f} dB{looked}, {said.seconds:.2f} s"
        )
    _tell_failed(failed, len(work))


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH)
@options.output("The PNG to write; a folder for several files.")
@click.option("--model", help=f"{options.CODEC}; default: the shipped codec that made the file.")
@click.option("--bytes", "size", type=click.IntRange(min=1), help="Take so many bytes of a progressive file only.")
@click.option(
    "--frames",
    type=PATH,
    help="A folder for pictures of a progressive file as it arrives: from all its bytes, half of them, and so on.",
)
def decompress(
    files: tuple[Path, ...], output: Path | None, model: str | None, size: int | None, frames: Path | None
) -> None:
    """Decode a .fov file to a PNG, or several files and folders of them over all cores.

    A progressive file that was cut short gives the picture that its bytes hold.
    """
    from assets.frames.targets import files_in, targets_of

    if (output is None) == (frames is None) or (frames is not None and size is not None):
        raise FoveaError("name a PNG to write with -o, and --bytes with it, or a folder with --frames")
    work: list[tuple[Path, Path]] = []
    if output is not None:
        _check_ending(files, output, ".png", "decoded pictures are written as PNG")
        work = targets_of(files, output, ".png", files_in, "fovea decompress")
    from assets.evaluation.code_files import decompress_files, frame_work
    from models.codecs.bitstream import unpack
    from models.codecs.catalogue import maker_of, open_codec

    sizes = None if size is None else [size] * len(work)
    bad: list[str] = []
    if frames is not None:
        found_frames, bad = frame_work(files, frames)
        work, sizes = [(file, target) for file, target, _ in found_frames], [n for *_, n in found_frames]
    named = options.codec_named(model) if model else None
    found: dict[bytes, Any] = {}

    def opened(data: bytes) -> Any:
        if named is not None:
            return named
        wanted = unpack(data).model
        if wanted not in found:
            found[wanted] = open_codec(maker_of(data, "name its folder or its experiment's key with --model"))
        return found[wanted]

    count = len(work) + len(bad)
    failed: list[str] | None = bad if bad or count > 1 else None
    for said in decompress_files(work, opened, sizes=sizes, failed=failed):
        part = f", from {said.size} of {said.whole} bytes" if said.size < said.whole else ""
        click.echo(f"{printable(said.path)}: {said.width}×{said.height}{part}")
    _tell_failed(failed, count)


@click.command()
@click.argument("file", type=PATH)
@click.option("--bytes", "size", type=click.IntRange(min=1), help="At most so many bytes.")
@click.option("--bpp", type=float, help="At most so many bits per pixel.")
@options.output("The .fov file to write.", required=True)
def cut(file: Path, size: int | None, bpp: float | None, output: Path) -> None:
    """Cut a progressive file to a size, without a model: a smaller file of the same picture.

    A file that is no larger is copied. Of one that broke off, what no checksum follows is left out.
    """
    from assets.frames.targets import targets_of
    from assets.home import read_whole, write_output
    from models.codecs import bitstream

    if (size is None) == (bpp is None):
        raise FoveaError("give the size either as --bytes or as --bpp")
    check_rates(None, bpp, "--")
    if file.is_dir():
        raise FoveaError(f"{file} is a folder: fovea cut takes one file")
    _check_ending((file,), output, ".fov", "compressed pictures are .fov files")
    ((source, target),) = targets_of((file,), output, ".fov", lambda _: (), "fovea cut")
    data = read_whole(source)
    try:
        wanted = size or bitstream.size_at(data, bpp or 0)
        made, checked = bitstream.cut(data, wanted), bitstream.checked_part(data)
        head = bitstream.unpack(made)
    except FoveaError as error:
        raise FoveaError(f"{source}: {error}") from error
    _check_cut(target, made)
    write_output(target, made)
    said = f"{printable(target)}: {len(made)} bytes, {8 * len(made) / (head.width * head.height):.4f} bpp"
    if made == data:
        said += f": {printable(source)} as it is, which has no more"
    elif checked < min(wanted, len(data)):
        said += f": {printable(source)} has {checked} bytes that are checked and right, what follows them is left out"
    click.echo(said)


def _check_cut(target: Path, made: bytes) -> None:
    """Raises FoveaError for another file that is there and whole: what was cut from it could not be had back."""
    from models.codecs import bitstream

    data, whole = target.read_bytes() if target.exists() else b"", -1
    with contextlib.suppress(bitstream.BitstreamError):  # nothing is lost with a damaged one
        whole = bitstream.unpack(data).whole()
    if whole == len(data) and data != made:
        raise FoveaError(f"{target} is there and whole: name another output, or move it away")


def _check_ending(given: tuple[Path, ...], output: Path, ending: str, why: str) -> None:
    """Raises FoveaError for one file whose output has another ending."""
    one = len(given) == 1 and given[0].is_file() and not output.is_dir()
    if one and output.suffix.lower() != ending:
        raise FoveaError(f"{output}: {why}; name a file that ends in {ending}")


def _tell_failed(failed: list[str] | None, count: int) -> None:
    """Say what could not be done of several files. Raises FoveaError when there is any."""
    if failed and count == 1:
        raise FoveaError(failed[0])
    for line in failed or ():
        click.echo(printable(line), err=True)
    if failed:
        rest = "the others are written" if len(failed) < count else "nothing is written"
        raise FoveaError(f"{len(failed)} of {count} files could not be done (above); {rest}")


@click.command()
@click.argument("images", nargs=-1, required=True, type=PATH)
@options.output("A PNG for one picture, a folder for several.", required=True)
@click.option(
    "--model",
    help="sam_lite, sam_vgg, sam_resnet, spectral_residual, center_prior, or one that you trained, such as osie.sam_lite.",
)
@click.option("--overlay", is_flag=True, help="The map as heat over the picture, instead of the raw grey map.")
@click.option("--flip", is_flag=True, help="Average with the mirrored picture: a little better, twice the time.")
@options.device
def saliency(images: tuple[Path, ...], output: Path, model: str | None, overlay: bool, flip: bool, device: str) -> None:
    """Predict where people look: a grey PNG (255 = most salient) for each picture or folder of pictures."""
    from assets.graph import Waiting
    from assets.saliency.predict_files import predict_files
    from assets.saliency.sources import map_sources, open_model
    from models.device import chosen_device
    from models.experiments import DEFAULT_SALIENCY
    from pipelines.terminal import shown

    _check_ending(images, output, ".png", "maps are written as PNG")
    chain = chain_here(tracking=False)
    try:
        source = map_sources(chain.world, chain.given, model or DEFAULT_SALIENCY)[0]
    except Waiting as waiting:
        raise FoveaError(f"the saliency model {model} is not trained: fovea train {model}") from waiting
    opened = open_model(source, device=chosen_device(device), threads=chain.threads)
    with shown("maps") as progress:
        written, failed = predict_files(images, output, model=opened, overlay=overlay, flip=flip, progress=progress)
    for path in written:
        click.echo(printable(path))
    _tell_failed(failed, len(written) + len(failed))


@click.group("saliency-weights", cls=options.Group)
def saliency_weights() -> None:
    """Published weights of SAM-VGG and SAM-ResNet: download, or import a file that you have. sam_lite needs none."""


@saliency_weights.command()
@click.argument("name", type=click.Choice(["sam_vgg", "sam_resnet"]))
@click.option("--url", help="The file or its folder. Default: FOVEA_SAM_URL, else the authors' release.")
@click.option("--sha256", help="Expected checksum.")
def fetch(name: str, url: str | None, sha256: str | None) -> None:
    """Download and convert; an interrupted download goes on where it stopped."""
    from assets.home import Home
    from models.network import Manner, Progress
    from models.saliency.sam_import import fetch_weights
    from pipelines.terminal import shown

    folder = Home.from_environment().state / "weights"
    with shown(name) as progress:

        def report(state: Progress) -> None:
            progress(state.done_bytes, state.total_bytes or state.done_bytes + 1, "bytes")

        path = fetch_weights(name, folder, url, sha256, Manner(report=report, say=options.warn))
    click.echo(str(path))


@saliency_weights.command("import")
@click.argument("file", type=PATH)
def import_(file: Path) -> None:
    """Convert a published weight file (HDF5, called .pkl or .h5). Nothing in it is executed."""
    from assets.home import Home
    from models.saliency.sam_import import convert

    click.echo(str(convert(file, Home.from_environment().state / "weights")))
