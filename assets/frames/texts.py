"""Texts in pictures: a user's table of known lines in known boxes, moved to frames. `sample` knows its own number plates."""

import json
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from assets.datasets import Dataset
from assets.frames.folder import Names, some, unlike
from assets.frames.resize import fit
from assets.frames.sheet import check_pixels, numbers, read_table
from models.errors import FoveaError
from models.judges import Text

_BOX: Final = ["x", "y", "width", "height"]
_COLUMNS: Final = ("image", "text", *_BOX)


def read_texts(file: Path, manifest: pd.DataFrame) -> pd.DataFrame:
    """A Parquet or CSV table with columns image, text, x, y, width, height, checked against a manifest: a box's left upper
    corner and its size in pixels of the picture as it is viewed. `image` becomes the manifest's; rows of pictures that the
    manifest does not have are left out, since one table may serve several datasets.

    Raises FoveaError: no such file, not a table, a missing column, no usable row, a name that several pictures have, shares in
    place of pixels, and for an empty text or a box that does not lie in its picture, which it names.
    """
    table = read_table(file, _COLUMNS, "table of texts")
    names = table["image"].astype(str).str.strip()
    found, strange, ambiguous = Names(manifest["image"], manifest["path"]).resolve(names.unique())
    if ambiguous:
        raise FoveaError(f"{file} names {some(ambiguous)} by a name that several pictures have: use their path")
    table = table.assign(
        image=names.map(found), text=table["text"].astype(str), **{c: numbers(table[c], file) for c in _BOX}
    )
    sizes = manifest[manifest["status"] == "ok"].set_index("image")[["width", "height"]]
    kept = table[table["image"].isin(sizes.index)][list(_COLUMNS)].reset_index(drop=True)
    if kept.empty:
        why = f"none of its {len(table)} rows is of a picture that can be used{unlike(strange, manifest['image'])}"
        raise FoveaError(f"{file}: {why if len(table) else 'the table has no row'}")
    check_pixels(file, *(kept[c] for c in _BOX))
    wide, high = (kept["image"].map(sizes[c]) for c in ("width", "height"))
    sound = (kept[["x", "y"]] >= 0).all(axis=1) & (kept[["width", "height"]] > 0).all(axis=1)
    sound &= (kept["x"] + kept["width"] <= wide) & (kept["y"] + kept["height"] <= high)
    for wrong, why in ((~sound, "its box does not lie in the picture"), (kept["text"].str.strip() == "", "no text")):
        if wrong.any():
            row = kept[wrong].iloc[0]
            where = " ".join(f"{c} {row[c]:g}" for c in _BOX)
            raise FoveaError(f"{file}: {row['image']}, {row['text']!r} ({where}): {why}")
    return kept


def drawn_texts(folder: Path) -> pd.DataFrame:
    """The number plates of `sample` as `read_texts` gives them. folder: where it was drawn."""
    rows = []
    for path in sorted((folder / "objects").rglob("*_objects.json")):
        image = path.relative_to(folder / "objects").as_posix().replace("_objects.json", "_leftImg8bit")
        plates = (o for o in json.loads(path.read_text())["objects"] if o["kind"] == "plate")
        rows += [(image, o["text"], *o["box"]) for o in plates]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def frame_texts(dataset: Dataset, texts: pd.DataFrame, table: pd.DataFrame) -> list[list[Text]]:
    """The texts of each row's frame, boxes in its pixels; those that the frame's crop cuts are left out. table: rows of the
    manifest."""
    by_image = {str(image): rows for image, rows in texts.groupby("image")}
    found = []
    for image, width, height in zip(table["image"], table["width"], table["height"], strict=True):
        geometry = fit((int(width), int(height)), dataset.size)
        own = by_image.get(str(image), texts.iloc[:0])
        left, top = geometry.to_frame(own["x"], own["y"])
        right, bottom = geometry.to_frame(own["x"] + own["width"], own["y"] + own["height"])
        boxes = np.stack([left, top, right - left, bottom - top], axis=1)
        inside = (left >= 0) & (top >= 0) & (right <= geometry.size[0]) & (bottom <= geometry.size[1])
        found.append([Text(t, *map(float, b)) for t, b, ok in zip(own["text"], boxes, inside, strict=True) if ok])
    return found
