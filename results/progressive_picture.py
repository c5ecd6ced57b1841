"""A file's first 1, 2, 4 and 8 kB in uniform and in saliency order: docs/pictures/progressive.png.

    python results/progressive_picture.py docs/pictures/progressive.png

The picture is one of `sample`'s, drawn by code; shown is the part of it around the map's peak.
"""

from pathlib import Path

import cv2
import numpy as np

import fovea
from assets.figures import FAINT, INK, new_figure, png
from assets.frames.sample import draw_scene
from models.metrics import psnr_db
from pipelines.terminal import script

NUMBER, SIZE, PART = 1, (512, 256), (176, 132)
KILOBYTES = (1, 2, 4, 8)
ORDERS = {"uniform order": False, "saliency order": True}


def main(target: str) -> None:
    """Write the figure."""
    picture = cv2.resize(draw_scene(0, "test", NUMBER)[0], SIZE, interpolation=cv2.INTER_AREA)
    looked = fovea.saliency(picture)
    smooth = cv2.boxFilter(looked.astype(np.float32), -1, PART)
    (left, top), most = cv2.minMaxLoc(smooth)[3], (SIZE[0] - PART[0], SIZE[1] - PART[1])
    left, top = (int(np.clip(v - side // 2, 0, end)) for v, side, end in zip((left, top), PART, most, strict=True))
    part = np.s_[top : top + PART[1], left : left + PART[0]]
    shown = [("the picture", picture), ("where people look, as predicted", np.repeat(looked[..., None], 3, axis=2))]
    figure = new_figure(12.5, 4.3)
    cells = figure.subplots(2, 1 + len(KILOBYTES))
    for row, (name, whole) in enumerate(shown):
        cells[row, 0].imshow(whole[part])
        cells[row, 0].set_title(name, color=FAINT, fontsize=9)
    for row, (order, guide) in enumerate(ORDERS.items()):
        data = fovea.compress(picture, lmbda=0.1, saliency=guide, progressive=True)
        for column, size in enumerate(KILOBYTES, 1):
            seen = fovea.decompress(data[: 1000 * size])
            cells[row, column].imshow(seen[part])
            cells[row, column].set_title(
                f"{order}, {size} kB\n{psnr_db(picture, seen, looked):.1f} dB there, {psnr_db(picture, seen):.1f} dB in all",
                color=INK,
                fontsize=9,
            )
    for axes in cells.flat:
        axes.axis("off")
    Path(target).write_bytes(png(figure))


if __name__ == "__main__":
    script(main, __doc__)
