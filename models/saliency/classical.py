"""The models that learn nothing: spectral residual and the centre prior."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from models.saliency.center_prior import gaussian_map
from models.saliency.maps import Density, Picture, check_frame, scale_to_uint8
from models.saliency.spectral_residual import predict_density


class ClassicalModel:
    """Spectral residual or centre prior. `flip` changes nothing: neither prefers a side."""

    def __init__(self, name: str, version: str, threads: int | None = None) -> None:
        self.name, self.version, self.threads = name, version, threads or 1

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
