"""The pictures of a report: originals, maps and reconstructions that were kept when the points were measured."""

import math
from collections import defaultdict

import numpy as np
import pandas as pd

from assets.evaluation.pieces import POINTS, gallery_images, kept_name, pieces_of
from assets.evaluation.report_gallery import GalleryItem, GalleryShot
from assets.frames.decode import read_picture
from assets.graph import Task
from assets.saliency.condition import fixation_maps
from assets.saliency.pairs import open_pairs
from models.metrics import METRICS
from models.sweeps import Sweep


def gallery(task: Task, sweep: Sweep) -> list[GalleryItem]:
    """A few measured pictures of the sweep's dataset with every reconstruction of them that the store has."""
    seen = open_pairs(task, sweep.dataset, "measured")
    table = seen.table
    shown = gallery_images(table.image)
    shots: dict[str, list[GalleryShot]] = defaultdict(list)
    for made in pieces_of(task.given)[0]:
        if made.stage == "external_rd_points":
            continue
        points = pd.read_parquet(made.folder / POINTS)
        for row in points[(points.dataset == sweep.dataset) & points.image.isin(shown)].to_dict("records"):
            classical = made.stage == "classical_rd_points"
            point = float(row["rate"])
            path = made.folder / kept_name(str(row["image"]), str(row["codec"]) if classical else "", point)
            # one seed is enough to look at
            if not path.exists() or (not classical and int(row["seed"]) != 0):
                continue
            values = {m: float(row[m]) for m in METRICS if math.isfinite(float(row[m]))}
            shots[str(row["image"])].append(
                GalleryShot(
                    codec=str(row["codec"]),
                    arm=str(row["arm"]),
                    maps=str(row["maps"]),
                    bpp=float(row["bpp"]),
                    values=values,
                    picture=read_picture(path),
                    rate_name=str(row["rate_name"]),
                    rate=point,
                    variant=str(row["variant"]),
                )
            )
    items = []
    for place, image in enumerate(table.image):
        if image not in shown:
            continue
        picture, one = np.asarray(seen.pictures[place]), table.iloc[place : place + 1]
        items.append(
            GalleryItem(
                image=str(image),
                original=picture,
                saliency_map=np.asarray((seen.maps or [])[place]),
                shots=shots[str(image)],
                fixation_map=fixation_maps(task.dataset(sweep.dataset), one, [picture])[0],
            )
        )
    return items
