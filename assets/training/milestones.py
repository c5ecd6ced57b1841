"""How a codec learns, in pictures: a few crops of held-out pictures as it reconstructs them at growing steps.

A finished unit holds `stages/`: `original.png` and one `STEP.png` for each kept step, the crops one below the other,
all square and equally large; `stages.json` says where they come from and what each step cost and lost.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from assets.frames.encode import encode_png
from assets.home import write_whole

Picture = NDArray[np.uint8]

CROPS = 8
SIDE = 192
#: kept steps beside step 0: of a training from random weights, and of one that starts from a trunk and has less to learn
FROM_SCRATCH, FROM_TRUNK = 9, 2
FORMAT = 1


class Crop(NamedTuple):
    """A square of `side` pixels of a picture; `picture` is its place among the pictures looked at."""

    picture: int
    image: str
    top: int
    left: int
    side: int

    def of(self, whole: Picture) -> Picture:
        """The crop's pixels."""
        return whole[self.top : self.top + self.side, self.left : self.left + self.side]


def milestone_steps(steps: int, count: int = FROM_SCRATCH) -> tuple[int, ...]:
    """At most `count` steps up to the last, in equal ratios: most is learned early, in few steps."""
    first = max(1, min(steps // 50, 50)) if count > FROM_TRUNK else max(1, steps // 8)
    return tuple(sorted({int(v) for v in np.rint(np.geomspace(first, steps, count))}))


def choose_crops(pictures: Sequence[Picture], images: Sequence[str]) -> list[Crop]:
    """Up to `CROPS` windows that do not overlap, the richest in detail of each picture first."""
    if not pictures:
        return []
    side = min(SIDE, *(min(p.shape[:2]) for p in pictures))
    each = -(-CROPS // len(pictures))
    found: list[list[Crop]] = []
    for place, (picture, image) in enumerate(zip(pictures, images, strict=True)):
        grey = np.asarray(picture, np.float32).mean(axis=2)
        detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
        rows, columns = grey.shape[0] // side, grey.shape[1] // side
        tops = np.linspace(0, grey.shape[0] - side, rows).astype(int)
        lefts = np.linspace(0, grey.shape[1] - side, columns).astype(int)
        if rows == 1:
            tops = np.array([(grey.shape[0] - side) // 2])
        if columns == 1:
            lefts = np.array([(grey.shape[1] - side) // 2])
        windows = [Crop(place, image, int(t), int(left), side) for t in tops for left in lefts]
        windows.sort(key=lambda c: -float(detail[c.top : c.top + c.side - 1, c.left : c.left + c.side - 1].mean()))
        found.append(windows[:each])
    return [crops[rank] for rank in range(each) for crops in found if rank < len(crops)][:CROPS]


class Shown(NamedTuple):
    """A whole picture as the codec shows it at some step, its PSNR and its estimated bpp."""

    picture: Picture
    psnr_db: float
    bpp: float


class Milestones:
    """Keeps the stages of one training in a work folder; what is there already survives a killed run."""

    def __init__(self, folder: Path, crops: Sequence[Crop], pictures: Sequence[Picture]):
        self.folder, self.crops = folder, list(crops)
        if self.crops:
            self._write("original", [np.asarray(pictures[c.picture]) for c in self.crops])

    def _write(self, name: str, wholes: Sequence[Picture]) -> None:
        sheet = np.concatenate([c.of(w) for c, w in zip(self.crops, wholes, strict=True)])
        write_whole(self.folder / f"{name}.png", encode_png(sheet, level=6))

    def keep(self, step: int, shown: Sequence[Shown]) -> None:
        """The pictures, in their order, as the codec shows them at a step."""
        if not self.crops:
            return
        self._write(str(step), [shown[c.picture].picture for c in self.crops])
        facts = {
            "step": step,
            "psnr_db": [round(shown[c.picture].psnr_db, 4) for c in self.crops],
            "bpp_estimate": [round(shown[c.picture].bpp, 6) for c in self.crops],
        }
        write_whole(self.folder / f"{step}.json", json.dumps(facts))

    def collected(self, **facts: Any) -> dict[str, bytes]:
        """The files of `stages/`, by name; {} when nothing was kept. facts: what else stages.json says."""
        stages = sorted(
            (json.loads(p.read_text()) for p in self.folder.glob("[0-9]*.json")), key=lambda s: int(s["step"])
        )
        if not self.crops or not stages:
            return {}
        files = {"original.png": (self.folder / "original.png").read_bytes()}
        files |= {f"{s['step']}.png": (self.folder / f"{s['step']}.png").read_bytes() for s in stages}
        listing = {"format": FORMAT, **facts, "crops": [c._asdict() for c in self.crops], "stages": stages}
        files["stages.json"] = json.dumps(listing, indent=1).encode()
        return files
