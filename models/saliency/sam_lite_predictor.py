"""SAM-Lite's maps: many pictures, all cores, or a GPU."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.saliency.maps import Density, Picture, check_frame, scale_to_uint8
from models.saliency.sam_lite import density_maps, load_sam_lite, normalise, resize_picture, working_size


class SamLitePredictor:
    """SAM-Lite, batch norm folded.

    On the CPU every picture goes through on its own, `threads` of them side by side: a map depends neither on its
    company nor on the number of threads. On a GPU, pictures of one size go in batches, in bfloat16.
    """

    def __init__(
        self,
        weights: Path,
        settings: Mapping[str, Any],
        *,
        version: str,
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int = 32,
    ) -> None:
        self.name, self.version = "sam_lite", version
        self.rows, self.blur = int(settings.get("rows", 240)), float(settings.get("blur", 1.0))
        self.device = torch.device(device)
        self.threads = threads or torch.get_num_threads()
        self.batch_size = batch_size
        self.network = load_sam_lite(weights).fold().on(self.device)

    def _densities(self, frames: Sequence[Picture], flip: bool) -> list[Density]:
        """Frames of one size."""
        height, width = check_frame(frames[0]).shape[:2]
        size = working_size(height, width, self.rows)
        pictures = torch.from_numpy(np.stack([resize_picture(frame, size) for frame in frames])).to(
            self.device
        )
        on_gpu = self.device.type != "cpu"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            maps = density_maps(self.network, normalise(pictures), (height, width), self.blur, flip=flip)
        return list(maps.cpu().numpy())

    def _batches(self, frames: Iterable[Picture]) -> Iterator[list[Picture]]:
        limit = 1 if self.device.type == "cpu" else self.batch_size
        for _, group in itertools.groupby(frames, key=lambda frame: frame.shape):
            while batch := list(itertools.islice(group, limit)):
                yield batch

    def _map(self, frames: Iterable[Picture], flip: bool, convert: bool) -> list:
        def work(batch: list[Picture]) -> list:
            maps = self._densities(batch, flip)
            return [scale_to_uint8(m) for m in maps] if convert else maps

        if self.device.type != "cpu":
            return [m for batch in self._batches(frames) for m in work(batch)]
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return [m for maps in pool.map(work, self._batches(frames)) for m in maps]
        finally:
            torch.set_num_threads(before)

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1."""
        return self._map(frames, flip, False)

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""
        return self._map(frames, flip, True)
