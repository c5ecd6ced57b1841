"""SAM-Lite's maps: many pictures, all cores, or a GPU."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.memory import keep_freed_memory
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
        batch_size: int = 64,
    ) -> None:
        self.name, self.version = "sam_lite", version
        self.rows, self.blur = int(settings.get("rows", 240)), float(settings.get("blur", 1.0))
        self.device = torch.device(device)
        self.on_gpu = self.device.type != "cpu"
        self.threads = threads or torch.get_num_threads()
        self.batch_size = batch_size
        if not self.on_gpu:
            keep_freed_memory()
        self.network = load_sam_lite(weights).fold().on(self.device)

    def _maps(self, frames: Sequence[Picture], flip: bool, convert: bool) -> list[Any]:
        """Frames of one size to densities, or to uint8 maps where `convert`."""
        height, width = check_frame(frames[0]).shape[:2]
        size = working_size(height, width, self.rows)
        resized = torch.from_numpy(np.stack([resize_picture(frame, size) for frame in frames]))
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            x = normalise(resized.to(self.device))
            maps = density_maps(self.network, x, (height, width), self.blur, flip=flip)
            if convert and self.on_gpu:
                return list((maps * (255.0 / maps.amax((1, 2), keepdim=True))).round().byte().cpu().numpy())
        densities = list(maps.cpu().numpy())
        return [scale_to_uint8(d) for d in densities] if convert else densities

    def _batches(self, frames: Iterable[Picture]) -> Iterator[list[Picture]]:
        limit = self.batch_size if self.on_gpu else 1
        for _, group in itertools.groupby(frames, key=lambda frame: frame.shape):
            while batch := list(itertools.islice(group, limit)):
                yield batch

    def _run(self, frames: Iterable[Picture], flip: bool, convert: bool) -> list[Any]:
        batches = self._batches(frames)
        if self.on_gpu:
            return [m for batch in batches for m in self._maps(batch, flip, convert)]
        found: list[Any] = []
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                while waiting := list(itertools.islice(batches, 32 * self.threads)):
                    for maps in pool.map(lambda batch: self._maps(batch, flip, convert), waiting):
                        found += maps
        finally:
            torch.set_num_threads(before)
        return found

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1."""
        return self._run(frames, flip, False)

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""
        return self._run(frames, flip, True)
