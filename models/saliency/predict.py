"""Saliency maps of pictures, whatever the model."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.errors import FoveaError
from models.saliency.catalogue import MODELS, describe_weights, model_version, weights_path
from models.saliency.center_prior import gaussian_map
from models.saliency.spectral_residual import predict_density

Picture = NDArray[np.uint8]
Density = NDArray[np.float32]


@runtime_checkable
class SaliencyModel(Protocol):
    """What predicts maps. Frames are H×W×3 uint8 RGB of any size from 16×16 and may differ in size."""

    name: str
    version: str

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1. `flip` averages with the mirrored picture's map."""


def scale_to_uint8(density: Density) -> Picture:
    """round(255 · s / max s)."""
    return np.rint(density * (255.0 / float(density.max()))).astype(np.uint8)


def check_frame(frame: Picture) -> Picture:
    """Raises FoveaError unless the frame is an H×W×3 uint8 picture of at least 16×16."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FoveaError(f"a frame must be H×W×3 uint8 RGB, not {frame.dtype} of shape {frame.shape}")
    if min(frame.shape[:2]) < 16:
        raise FoveaError(f"a frame must be at least 16×16 pixels, not {frame.shape[1]}×{frame.shape[0]}")
    return frame


class ClassicalModel:
    """Spectral residual or centre prior. `flip` changes nothing: neither prefers a side."""

    def __init__(self, name: str, threads: int | None = None) -> None:
        self.name, self.version, self.threads = name, model_version(name), threads or 1

    def _density(self, frame: Picture) -> Density:
        check_frame(frame)
        return predict_density(frame) if self.name == "spectral_residual" else gaussian_map(*frame.shape[:2])

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self._density, frames))

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per frame; 255 is the picture's maximum."""
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(lambda frame: scale_to_uint8(self._density(frame)), frames))


class SamLitePredictor:
    """SAM-Lite, batch norm folded.

    On the CPU every picture goes through on its own, `threads` of them side by side: a map depends neither on its
    company nor on the number of threads. On a GPU, pictures of one size go in batches, in bfloat16.
    """

    def __init__(
        self,
        weights: Path,
        *,
        version: str,
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int = 32,
    ) -> None:
        import torch

        from models.saliency.sam_lite import load_sam_lite

        settings = describe_weights(weights).get("inference", {})
        self.name, self.version = "sam_lite", version
        self.rows, self.blur = int(settings.get("rows", 240)), float(settings.get("blur", 1.0))
        self.device = torch.device(device)
        self.threads = threads or torch.get_num_threads()
        self.batch_size = batch_size
        self.network = load_sam_lite(weights).fold().on(self.device)

    def _densities(self, frames: Sequence[Picture], flip: bool) -> list[Density]:
        """Frames of one size."""
        import torch

        from models.saliency.sam_lite import density_maps, normalise, resize_picture, working_size

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
        import torch

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


def load_model(
    name: str, *, weights_dir: Path | None = None, device: str = "cpu", threads: int | None = None
) -> SaliencyModel:
    """The model called `name` (see catalogue.MODELS), ready to predict.

    Raises FoveaError for an unknown name, missing or damaged weights, or a device that is not there.
    """
    if name not in MODELS:
        raise FoveaError(f"unknown saliency model {name!r}: one of {', '.join(MODELS)}")
    if name in ("spectral_residual", "center_prior"):
        return ClassicalModel(name, threads)
    if name == "sam_lite":
        version = model_version(name, weights_dir)
        return SamLitePredictor(
            weights_path(name, weights_dir), version=version, device=device, threads=threads
        )
    from models.saliency.sam import load_predictor

    return load_predictor(name, weights_dir, device)
