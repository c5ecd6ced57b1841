"""Saliency maps for files and folders, outside any dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path

from assets.frames.contact import overlay as laid_over
from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import find_pictures
from assets.frames.targets import signed, targets_of
from assets.home import write_output
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY
from models.saliency.maps import SaliencyModel, check_frame
from models.saliency.predict import load_model

BATCH = 16
BY = "fovea saliency"


def predict_files(
    images: Sequence[Path],
    output: Path,
    *,
    model: SaliencyModel | None = None,
    overlay: bool = False,
    flip: bool = False,
    progress: Callable[[float, float, str], None] | None = None,
) -> tuple[list[Path], list[str]]:
    """Write a PNG for each picture: the grey map (255 = most salient), or the map over the picture.

    model: the default one where None. output: see `targets_of`. Returns what was written, and for each broken file, by name,
    why not.
    """
    work = targets_of(images, output, ".png", find_pictures, BY)
    predictor = model or load_model(DEFAULT_SALIENCY)
    written: list[Path] = []
    broken: list[str] = []
    for start in range(0, len(work), BATCH):
        good = []
        for source, target in work[start : start + BATCH]:
            try:
                picture = read_picture(source)
                check_frame(picture)
                good.append((picture, target))
            except FoveaError as error:
                broken.append(str(error) if str(source) in str(error) else f"{source}: {error}")
        maps = predictor.predict([picture for picture, _ in good], flip=flip)
        for (picture, target), found in zip(good, maps, strict=True):
            write_output(target, signed(encode_png(laid_over(picture, found) if overlay else found), BY))
            written.append(target)
        if progress:
            progress(min(start + BATCH, len(work)), len(work), "maps predicted")
    return written, broken
