"""Perceptual metrics of other laboratories, by the packages that carry everything they need.

Of the whole picture; and where people looked, which no package can: of the original with the decoded picture's error faded
out where nobody looks (`faded`).
"""

import io
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import FoveaError
from models.judges import Picture, Text, Verdict
from models.weights import sha256_of

#: BT.601 luma in studio range, as video metrics take it, of 8-bit sRGB
_LUMA = np.array([65.481, 128.553, 24.966], np.float32) / 255


class Compared(NamedTuple):
    """A metric of two pictures. about: package and version."""

    about: str
    column: str
    measure: Callable[[Picture, Picture], float]

    def sees(self, original: Picture, texts: Sequence[Text] = (), looked: NDArray[Any] | None = None) -> Verdict:
        """What decoded pictures are judged by."""
        original = np.asarray(original)

        def verdict(decoded: Picture) -> dict[str, float]:
            said = {self.column: float(self.measure(original, decoded))}
            if looked is not None:
                said[f"ew_{self.column}"] = float(self.measure(original, faded(original, decoded, looked)))
            return said

        return verdict


def faded(original: Picture, decoded: Picture, looked: NDArray[Any]) -> Picture:
    """The original with the error of `decoded` times √(looked / its maximum): its mean squared error is what eye-weighted PSNR
    counts, but for a factor of the picture's own and rounding. looked: H×W, at least 0, somewhere more."""
    share = np.sqrt(looked / looked.max(), dtype=np.float32)[..., None]
    shown: Picture = np.round(original + share * (decoded.astype(np.float32) - original)).astype(np.uint8)
    return shown


def _png(picture: Picture) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=0)
    return file


def _ssimulacra2() -> Compared:
    from ssimulacra2 import compute_ssimulacra2

    return Compared(
        f"ssimulacra2 {version('ssimulacra2')}", "ssimulacra2", lambda a, b: compute_ssimulacra2(_png(a), _png(b))
    )


def _vmaf() -> Compared:
    import torch
    from vmaf_torch import VMAF

    model: Any = VMAF(enable_motion=False)

    def measure(original: Picture, decoded: Picture) -> float:
        luma = [torch.from_numpy(16 + p.astype(np.float32) @ _LUMA)[None, None] for p in (original, decoded)]
        with torch.inference_mode():
            return float(model(*luma))

    return Compared(f"vmaf-torch {version('vmaf-torch')}, v0.6.1 without motion", "vmaf", measure)


def _cvvdp() -> Compared:
    import pycvvdp
    import torch

    model: Any = pycvvdp.cvvdp(display_name="standard_4k", device=torch.device("cpu"))
    one_at_a_time = threading.Lock()

    def measure(original: Picture, decoded: Picture) -> float:
        with one_at_a_time, torch.inference_mode():
            return float(model.predict(decoded, original, dim_order="HWC")[0])

    return Compared(f"cvvdp {version('cvvdp')}, standard_4k", "cvvdp_jod", measure)


def _butteraugli() -> Compared:
    program = str(shutil.which("butteraugli_main"))

    def measure(original: Picture, decoded: Picture) -> float:
        with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
            files = [Path(folder, name) for name in ("original.png", "decoded.png")]
            for file, picture in zip(files, (original, decoded), strict=True):
                file.write_bytes(_png(picture).getvalue())
            done = subprocess.run([program, *files, "--pnorm", "3"], capture_output=True, text=True, check=False)
        words = done.stdout.split()
        if done.returncode or "3-norm:" not in words:
            raise FoveaError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")
        return float(words[words.index("3-norm:") + 1])

    digest = sha256_of(Path(program))[:16]
    return Compared(f"libjxl's butteraugli_main, 3-norm at 80 nits, sha256 {digest}", "butteraugli", measure)


def opened(name: str) -> Compared:
    """The metric of a name of `JUDGES`. Raises ImportError where its package is not installed."""
    return {"ssimulacra2": _ssimulacra2, "vmaf": _vmaf, "cvvdp": _cvvdp, "butteraugli": _butteraugli}[name]()
