"""Frames → tensors on the device: the whole training set stays in memory as bytes, crops are cut where they are used.

Which crop a step sees is a pure function of (seed, step): a counter-based generator, so that a resumed run needs no
state of the past. Every picture is seen once before one is seen again; the order of each round is a new permutation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import FoveaError
from models.saliency.weighting import weight_means, weight_table

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FrameSet:
    """A split's pictures and, for the arms that need them, one map each.

    pictures: N×H×W×3 uint8 RGB, or a list of H×W×3 where sizes differ; memory-mapped arrays are fine. maps: N×H×W uint8
    (or a list), 255 = the picture's maximum: those of the experiment's arm (predicted, another picture's, the centre
    bias, people's own). names: for messages. Raises FoveaError for wrong shapes or types, naming the picture.
    """

    pictures: Sequence[Bytes]
    maps: Sequence[Bytes] | None = None
    names: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if len(self.pictures) == 0:
            raise FoveaError("there is no picture to train on: the dataset's train split is empty")
        if self.maps is not None and len(self.maps) != len(self.pictures):
            raise FoveaError(f"{len(self.pictures)} pictures but {len(self.maps)} saliency maps")
        if self.names and len(self.names) != len(self.pictures):
            raise FoveaError(f"{len(self.pictures)} pictures but {len(self.names)} names")
        for index, picture in enumerate(self.pictures):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise FoveaError(f"{self.name(index)}: a picture is H×W×3 uint8, not {picture.shape} {picture.dtype}")
            if self.maps is not None:
                s = self.maps[index]
                if s.shape != picture.shape[:2] or s.dtype != np.uint8:
                    raise FoveaError(
                        f"{self.name(index)}: its map must be {picture.shape[0]}×{picture.shape[1]} uint8, "
                        f"not {s.shape} {s.dtype}"
                    )

    def __len__(self) -> int:
        return len(self.pictures)

    def name(self, index: int) -> str:
        """The picture's name, or its number where none was given."""
        return self.names[index] if self.names else f"picture {index}"

    def digest(self) -> str:
        """SHA-256 over all pixels, maps and shapes: what a checkpoint was trained on."""
        hashed = hashlib.sha256()
        for items in (self.pictures, self.maps or ()):
            for item in items:
                hashed.update(repr(item.shape).encode())
                hashed.update(np.ascontiguousarray(item).data)
        return hashed.hexdigest()


class Batch(NamedTuple):
    """What one step trains on.

    x: B×3×c×c float32 in [0, 1], on the CPU channels-last. s: B×1×c×c in [0, 1], or None without maps. w: the crop of the
    whole picture's weight map, or None without a weighting. valid: B×1×c×c, 0 on padding, or None when no picture is
    smaller than the crop. picture: which ones, by number.
    """

    x: Tensor
    s: Tensor | None
    w: Tensor | None
    valid: Tensor | None
    picture: NDArray[np.int64]


class Weighting(NamedTuple):
    """The parameters of models.saliency.weighting.weight_map."""

    alpha: float
    gamma: float
    normalised: bool = True
    scale: float = 1.0


class Places(NamedTuple):
    """Where a step's crops lie: arrays of length B; top and left are the first row and column, flip mirrors."""

    picture: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]


class Crops:
    """Random crops of a FrameSet, mirrored half of the time, resident on `device`.

    A picture smaller than the crop is continued by its last row and column, and `Batch.valid` is 0 there. On a GPU all
    pixels lie in one flat buffer of device memory and a crop is one gather, without waiting for the device; on the CPU
    a crop is a slice. Both give the same numbers.
    """

    def __init__(
        self,
        frames: FrameSet,
        *,
        seed: int,
        batch: int,
        crop: int,
        device: str | torch.device = "cpu",
        weighting: Weighting | None = None,
    ):
        if weighting is not None and frames.maps is None:
            raise FoveaError("a weighted loss needs a saliency map for each picture, and there are none")
        self.frames = frames
        self.seed, self.batch, self.crop = seed, batch, crop
        self.device = torch.device(device)
        sizes = np.array([p.shape[:2] for p in frames.pictures], dtype=np.int64)
        self._heights, self._widths = sizes[:, 0], sizes[:, 1]
        self._padded = bool((sizes < crop).any())
        self._round = -1
        self._order = np.zeros(0, dtype=np.int64)

        self._weighting: tuple[Tensor, ...] | None = None
        if weighting is not None and frames.maps is not None:
            levels = weight_table(weighting.alpha, weighting.gamma)
            if weighting.normalised:
                means = weight_means(frames.maps, alpha=weighting.alpha, gamma=weighting.gamma)
            else:
                means = np.full(len(frames), 1 / weighting.scale)
            # alpha = 0 and a map that is 0 everywhere: no place is preferred, its weights are 1
            parts = levels, 1 / np.where(means > 0, means, 1.0), means == 0
            self._weighting = tuple(torch.from_numpy(v).to(self.device) for v in parts)

        self._flat = self.device.type != "cpu"
        if self._flat:
            self._upload()

    def _upload(self) -> None:
        frames = self.frames
        sizes = self._heights * self._widths
        self._starts = np.cumsum(sizes) - sizes
        pixels = np.concatenate([np.asarray(p).reshape(-1, 3) for p in frames.pictures])
        self._pixels = torch.from_numpy(pixels).to(self.device)
        self._map_pixels = None
        if frames.maps is not None:
            maps = np.concatenate([np.asarray(m).reshape(-1) for m in frames.maps])
            self._map_pixels = torch.from_numpy(maps).to(self.device)

    def _picture(self, position: int) -> int:
        """The picture at a place in the endless sequence of shuffled rounds."""
        count = len(self.frames)
        turn, place = divmod(position, count)
        if turn != self._round:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, 0x04D3], counter=[0, 0, 0, turn]))
            self._order, self._round = rng.permutation(count), turn
        return int(self._order[place])

    def places(self, step: int) -> Places:
        """Where the crops of a step lie; a pure function of (seed, step)."""
        index = np.array([self._picture(step * self.batch + i) for i in range(self.batch)], dtype=np.int64)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, 0xC409], counter=[0, 0, 0, step]))
        top = rng.integers(0, np.maximum(self._heights[index] - self.crop, 0) + 1)
        left = rng.integers(0, np.maximum(self._widths[index] - self.crop, 0) + 1)
        return Places(index, top, left, rng.random(self.batch) < 0.5)

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        places = self.places(step)
        x, s = self._gathered(places) if self._flat else self._sliced(places)
        w = self._weights(s, places)
        return Batch(
            x=(x.permute(0, 3, 1, 2).contiguous() if self._flat else x.permute(0, 3, 1, 2)).float().mul_(1 / 255),
            s=None if s is None else s[:, None].float().mul_(1 / 255),
            w=w,
            valid=self._valid(places),
            picture=places.picture,
        )

    def _sliced(self, places: Places) -> tuple[Tensor, Tensor | None]:
        c, frames = self.crop, self.frames
        x = np.empty((self.batch, c, c, 3), dtype=np.uint8)
        s = None if frames.maps is None else np.empty((self.batch, c, c), dtype=np.uint8)
        for slot, (index, top, left, flip) in enumerate(zip(*places, strict=True)):
            _cut(frames.pictures[index], x[slot], top, left, flip)
            if s is not None and frames.maps is not None:
                _cut(frames.maps[index], s[slot], top, left, flip)
        return torch.from_numpy(x), None if s is None else torch.from_numpy(s)

    def _grid(self, places: Places) -> tuple[NDArray[np.int64], ...]:
        """The rows and columns of the pictures that the crops show, B×c, and the pictures' heights and widths, B×1."""
        span = np.arange(self.crop)
        columns = places.left[:, None] + np.where(places.flip[:, None], span[::-1], span)
        sides = (v[places.picture][:, None] for v in (self._heights, self._widths))
        return places.top[:, None] + span, columns, *sides

    def _gathered(self, places: Places) -> tuple[Tensor, Tensor | None]:
        rows, columns, heights, widths = self._grid(places)
        rows = self._starts[places.picture][:, None] + np.minimum(rows, heights - 1) * widths
        columns = np.minimum(columns, widths - 1)
        at = self._sent(rows)[:, :, None] + self._sent(columns)[:, None, :]
        return self._pixels[at], None if self._map_pixels is None else self._map_pixels[at]

    def _sent(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, non_blocking=True)

    def _weights(self, s: Tensor | None, places: Places) -> Tensor | None:
        if s is None or self._weighting is None:
            return None
        levels, inverse_means, blank = self._weighting
        index = self._sent(places.picture)
        w = levels[s.long()] * inverse_means[index][:, None, None]
        return torch.where(blank[index][:, None, None], torch.ones_like(w), w)[:, None].float()

    def _valid(self, places: Places) -> Tensor | None:
        if not self._padded:
            return None
        rows, columns, heights, widths = self._grid(places)
        inside = self._sent(rows < heights)[:, :, None] & self._sent(columns < widths)[:, None, :]
        return inside[:, None].float()


def _cut(source: Bytes, out: Bytes, top: int, left: int, flip: bool) -> None:
    """Copy the crop at (top, left) into `out`, continued by its last row and column, mirrored when `flip`."""
    height, width = out.shape[:2]
    piece = source[top : top + height, left : left + width]
    if piece.shape[:2] != (height, width):
        missing = ((0, height - piece.shape[0]), (0, width - piece.shape[1]))
        piece = np.pad(piece, missing + ((0, 0),) * (piece.ndim - 2), mode="edge")
    out[:] = piece[:, ::-1] if flip else piece
