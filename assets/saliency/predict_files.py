"""Saliency maps for files and folders, outside any dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path

from assets.frames.contact import overlay as laid_over
from assets.frames.decode import read_picture
from assets.frames.encode import encode_png
from assets.frames.folder import find_pictures
from assets.home import written_beside
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY
from models.saliency.maps import SaliencyModel
from models.saliency.predict import load_model

BATCH = 16


def predict_files(
    images: Sequence[Path],
    output: Path,
    *,
    model: SaliencyModel | None = None,
    overlay: bool = False,
    flip: bool = False,
    progress: Callable[[float, float, str], None] | None = None,
) -> list[Path]:
    """Write a PNG for each picture: the grey map (255 = most salient), or the map over the picture.

    model: the default one where None. output: a PNG when there is one picture, else a folder, in which the folders given are mirrored. Returns what was
    written. Raises FoveaError for a missing or broken file, named, after the others have been done.
    """
    work: list[tuple[Path, Path]] = []
    for image in images:
        if image.is_dir():
            work += [(image / p, output / Path(p).with_suffix(".png")) for p in find_pictures(image)]
        elif image.exists():
            work.append((image, output / f"{image.stem}.png"))
        else:
            raise FoveaError(f"no such file: {image}")
    if not work:
        raise FoveaError(f"no picture in {', '.join(map(str, images))}")
    if len(images) == 1 and not images[0].is_dir():
        if output.is_dir():
            raise FoveaError(
                f"{output} is a folder: name the PNG to write, for example {output / images[0].stem}.png"
            )
        work = [(images[0], output)]
    targets = [t for _, t in work]
    twice = {t for t in targets if targets.count(t) > 1}
    if twice:
        raise FoveaError(
            f"two pictures would both be written to {sorted(twice)[0]}: give their folder instead"
        )
    predictor = model or load_model(DEFAULT_SALIENCY)
    written: list[Path] = []
    broken: list[str] = []
    for start in range(0, len(work), BATCH):
        good = []
        for source, target in work[start : start + BATCH]:
            try:
                good.append((read_picture(source), target))
            except FoveaError as error:
                broken.append(str(error))
        for (picture, target), found in zip(
            good, predictor.predict([p for p, _ in good], flip=flip), strict=True
        ):
            with written_beside(target) as beside:
                beside.write_bytes(encode_png(laid_over(picture, found) if overlay else found))
            written.append(target)
        if progress:
            progress(min(start + BATCH, len(work)), len(work), "maps predicted")
    if broken:
        raise FoveaError(f"{len(written)} written, {len(broken)} could not be read: " + "; ".join(broken))
    return written
