"""The pictures of a report: originals, maps and reconstructions that were kept when the points were measured."""

from collections import defaultdict

import numpy as np

from assets.evaluation.pieces import POINTS, SHOWN, gallery_images, kept_name, pieces_of
from assets.evaluation.rate_distortion import records
from assets.evaluation.report_gallery import GalleryItem, GalleryShot
from assets.frames.decode import read_picture
from assets.graph import Task
from assets.saliency.fixations import frame_fixation_maps
from assets.saliency.pairs import open_pairs
from models.sweeps import Sweep


def gallery(task: Task, sweep: Sweep) -> list[GalleryItem]:
    """A few measured pictures of the sweep's dataset with every reconstruction of them that the store has."""
    seen = open_pairs(task, sweep.dataset, "measured")
    table = seen.table
    shown = gallery_images(table.image)
    shots: dict[str, list[GalleryShot]] = defaultdict(list)
    trained_at = {e.key: e.rates[0] for e in sweep.experiments if len(e.rates) == 1 and not e.untrained}
    for made in pieces_of(task.given)[0]:
        if made.stage == "external_rd_points":
            continue
        points = made.table(SHOWN if (made.folder / SHOWN).exists() else POINTS)
        for row in records(points[(points.dataset == sweep.dataset) & points.image.isin(shown)]):
            classical = made.stage == "classical_rd_points"
            path = made.folder / kept_name(row["image"], row["codec"] if classical else "", float(row["rate"]))
            # one seed is enough to look at
            if path.exists() and (classical or int(row["seed"]) == 0):
                shots[row["image"]].append(GalleryShot(row, read_picture(path), trained_at.get(row["experiment"])))
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
                fixation_map=frame_fixation_maps(task.dataset(sweep.dataset), one, [picture.shape[:2]])[0],
            )
        )
    return items
