"""SAM on pictures: into the network's frame and back, as the published code does, and a predictor around it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from models.errors import FoveaError
from models.saliency.catalogue import describe_weights, model_version, weights_path
from models.saliency.maps import Density, Picture, check_frame
from models.saliency.sam import BLUR_SIGMA, INPUT_SIZE, NETWORKS, SAM
from models.saliency.sam_weights import load_network, missing_weights

MEAN_BGR = (103.939, 116.779, 123.68)


def fit(height: int, width: int, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Where a picture lies in a frame of rows×columns, aspect kept: (height, width, top, left) of its place there. Integer
    floors as published, each side at least 1 and at most the frame's."""
    if height / rows > width / columns:
        new_width = min(max(width * rows // height, 1), columns)
        return rows, new_width, 0, (columns - new_width) // 2
    new_height = min(max(height * columns // width, 1), rows)
    return new_height, columns, (rows - new_height) // 2, 0


def pad_picture(picture: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Fit a uint8 picture (H×W×3) or map (H×W) into rows×columns: bilinear without antialias, black bars."""
    height, width, top, left = fit(picture.shape[0], picture.shape[1], rows, columns)
    padded = np.zeros((rows, columns, *picture.shape[2:]), np.uint8)
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    padded[top : top + height, left : left + width] = resized
    return padded


def preprocess(
    frames: Sequence[Picture], size: tuple[int, int] = INPUT_SIZE, device: torch.device | str = "cpu"
) -> Tensor:
    """Pictures (H×W×3 uint8 RGB, sizes may differ) to N×3×rows×columns float32 BGR minus the ImageNet mean. The bars are
    black before the mean is subtracted, so they are −mean in the result."""
    padded = np.stack([pad_picture(np.ascontiguousarray(frame[:, :, ::-1]), *size) for frame in frames])
    x = torch.from_numpy(padded).to(device).permute(0, 3, 1, 2)
    mean = torch.tensor(MEAN_BGR, device=device).view(1, 3, 1, 1)
    return (x.float() - mean).contiguous(memory_format=torch.channels_last)


def postprocess(prediction: Density, height: int, width: int, sigma: float = BLUR_SIGMA) -> Density:
    """The network's map (rows×columns, ≥ 0, for instance 480×640) to the picture's height×width, maximum 1.

    The resized map is cut where the bars were, blurred with `sigma` pixels of the picture (reflected edges,
    truncated at 4 sigma) and divided by its maximum; nothing is subtracted. A map without any mass inside the
    picture (the last ReLU is dead) says nothing: it becomes 1 everywhere. Raises FoveaError where the prediction
    isn't finite.
    """
    if not np.isfinite(prediction).all():
        raise FoveaError("SAM predicted NaN or infinity: its weights are damaged; import or train them again")
    rows, columns = prediction.shape
    peak = float(prediction.max())
    if peak <= 0:
        return np.ones((height, width), np.float32)
    prediction = prediction / np.float32(peak)
    if height / rows > width / columns:
        new_height, new_width = height, max(columns * height // rows, width)
    else:
        new_height, new_width = max(rows * width // columns, height), width
    resized = cv2.resize(prediction, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    top, left = (new_height - height) // 2, (new_width - width) // 2
    inside = resized[top : top + height, left : left + width]
    blurred = gaussian_filter(inside, sigma, mode="reflect", truncate=4.0)
    peak = float(blurred.max())
    # Below this the map holds only the tail of something that lies in the bars.
    if peak <= np.finfo(np.float32).tiny:
        return np.ones((height, width), np.float32)
    return blurred / np.float32(peak)


class SAMPredictor:
    """A network ready to predict. `name` is "sam_vgg" or "sam_resnet"; `version` changes with weights and settings.

    On the CPU each picture goes through on its own, so its map doesn't depend on its company; on a GPU pictures go in
    batches, in bfloat16 (the convolutions; softmax, priors and upsampling in float32).
    """

    def __init__(
        self,
        network: SAM,
        *,
        version: str,
        device: torch.device | str = "cpu",
        size: tuple[int, int] = INPUT_SIZE,
        sigma: float = BLUR_SIGMA,
        batch_size: int = 16,
    ) -> None:
        self.name, self.version = network.name, version
        self.size, self.sigma = size, sigma
        self.device = torch.device(device)
        self.batch_size = 1 if self.device.type == "cpu" else batch_size
        self.network = network.fold().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(self, frames: Sequence[Picture]) -> Density:
        """The network's output for one batch: N×480×640 float32, ≥ 0."""
        on_gpu = self.device.type != "cpu"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            return self.network(preprocess(frames, self.size, self.device))[:, 0].float().cpu().numpy()

    def _postprocessed(self, frames: Sequence[Picture]) -> list[Density]:
        return [
            postprocess(m, frame.shape[0], frame.shape[1], self.sigma)
            for m, frame in zip(self.maps(frames), frames, strict=True)
        ]

    def _saliency(self, frames: Iterable[Picture], flip: bool) -> Iterator[Density]:
        """One map a frame: maximum 1, or, averaged with the mirrored picture's, sum 1."""
        remaining = iter(frames)
        while batch := [check_frame(frame) for frame in islice(remaining, self.batch_size)]:
            maps = self._postprocessed(batch)
            if flip:
                mirrored = self._postprocessed([frame[:, ::-1] for frame in batch])
                maps = [
                    (_density(s) + _density(m)[:, ::-1]) / np.float32(2) for s, m in zip(maps, mirrored, strict=True)
                ]
            yield from maps

    def predict(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Picture]:
        """One H×W uint8 map per H×W×3 uint8 RGB frame; 255 is the picture's maximum, fractions are cut off."""
        return [(s / s.max() * np.float32(255)).astype(np.uint8) for s in self._saliency(frames, flip)]

    def predict_float(self, frames: Iterable[Picture], *, flip: bool = False) -> list[Density]:
        """One H×W float32 density per frame; each sums to 1. `flip` averages with the mirrored picture's."""
        return [_density(s) for s in self._saliency(frames, flip)]


def _density(saliency: Density) -> Density:
    return (saliency / saliency.sum(dtype=np.float64)).astype(np.float32)


def load_predictor(name: str, weights_dir: Path | None = None, device: torch.device | str = "cpu") -> SAMPredictor:
    """SAM-VGG ("sam_vgg") or SAM-ResNet ("sam_resnet") with `weights_dir/NAME.safetensors`.

    Without a folder: `FOVEA_HOME/weights`. The JSON beside the weights may set `inference`: `size` (rows, columns) and
    `sigma` (pixels of the picture). Raises FoveaError for an unknown name, for missing weights (the message has the
    command that downloads them), for damaged ones, and for a device that isn't there.
    """
    if name not in NETWORKS:
        raise FoveaError(f"unknown network {name!r}: one of {', '.join(NETWORKS)}")
    path = weights_path(name, weights_dir)
    if not path.is_file():
        raise FoveaError(missing_weights(name, path))
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise FoveaError(f"{name}: device {device} asked for, but torch sees no GPU: use device cpu")
    settings = describe_weights(path).get("inference", {})
    try:
        rows, columns = (int(side) for side in settings.get("size", INPUT_SIZE))
        sigma = float(settings.get("sigma", BLUR_SIGMA))
    except (TypeError, ValueError) as error:
        raise FoveaError(
            f"{path.with_suffix('.json')}: inference.size must be [rows, columns] and inference.sigma a number"
        ) from error
    return SAMPredictor(
        load_network(name, path),
        version=model_version(name, weights_dir),
        device=device,
        size=(rows, columns),
        sigma=sigma,
    )
