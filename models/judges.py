"""Judges: metrics that a package outside of Fovea's dependencies measures, asked for by name (`fovea benchmark --judge`).

Each has a module with `opened(name)`; nothing here imports it, so that neither planning nor a table's labels need its
packages, and the code version of no artifact covers it.
"""

import importlib
import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.metrics import METRICS, Metric

Picture = NDArray[np.uint8]


class Text(NamedTuple):
    """A line of text in a picture, its box in continuous pixels: pixel i spans i … i + 1."""

    text: str
    x: float
    y: float
    width: float
    height: float


#: what one decoded picture is worth, by column
Verdict = Callable[[Picture], dict[str, float]]


class Opened(Protocol):
    """A judge that is ready. about: package, version, digest of its weights."""

    about: str

    def sees(self, original: Picture, texts: Sequence[Text], looked: NDArray[Any] | None = None) -> Verdict:
        """What decoded pictures are judged by; pictures uint8 RGB, H×W×3. looked: how much people looked at each place, H×W,
        at least 0, where that is known."""


class Judge(NamedTuple):
    """metrics: the columns that it fills. install: what installs packages, those that it imports, or programs. falls: whether
    less is better. shares: whether its values are shares of something counted, whose curves end level."""

    metrics: tuple[Metric, ...]
    module: str
    install: str
    packages: tuple[str, ...]
    texts: bool = False
    falls: bool = False
    shares: bool = False

    def lacks(self) -> str:
        """The packages that are not installed, and what installs them; "" where all are."""
        absent = [p for p in self.packages if not (importlib.util.find_spec(p) or shutil.which(p))]
        return f"{', '.join(absent)} not installed: {self.install}" if absent else ""

    def opened(self, name: str) -> Opened:
        """The judge with its weights. Raises ImportError where `lacks` says so."""
        found: Opened = importlib.import_module(self.module).opened(name)
        return found


def _twice(name: str, label: str, unit: str = "") -> tuple[Metric, ...]:
    """A metric of the whole picture, and the same where people looked."""
    return Metric(name, label, unit), Metric(f"ew_{name}", f"eye-weighted {label}", unit)


_PERCEPTUAL, _EXTRA = "models.perceptual", "pip install 'fovea[perceptual]'"
JUDGES: Mapping[str, Judge] = {
    "ocr": Judge(
        (Metric("characters_read", "characters read"), Metric("texts_read", "texts read without a fault")),
        "models.legibility",
        "pip install 'fovea[ocr]'",
        ("rapidocr", "onnxruntime"),
        texts=True,
        shares=True,
    ),
    "ocr_v4": Judge(
        (
            Metric("characters_read_v4", "characters read by PP-OCRv4"),
            Metric("texts_read_v4", "texts read without a fault by PP-OCRv4"),
        ),
        "models.legibility",
        "pip install --no-deps rapidocr-onnxruntime onnxruntime",
        ("rapidocr_onnxruntime", "onnxruntime"),
        texts=True,
        shares=True,
    ),
    "ssimulacra2": Judge(_twice("ssimulacra2", "SSIMULACRA 2"), _PERCEPTUAL, _EXTRA, ("ssimulacra2",)),
    "vmaf": Judge(_twice("vmaf", "VMAF"), _PERCEPTUAL, _EXTRA, ("vmaf_torch",)),
    "cvvdp": Judge(_twice("cvvdp_jod", "ColorVideoVDP", "JOD"), _PERCEPTUAL, _EXTRA, ("pycvvdp",)),
    "butteraugli": Judge(
        _twice("butteraugli", "Butteraugli 3-norm"),
        _PERCEPTUAL,
        "apt-get install libjxl-devtools",
        ("butteraugli_main",),
        falls=True,
    ),
}

JUDGED: Mapping[str, Metric] = {m.name: m for judge in JUDGES.values() for m in judge.metrics}
FALLING = frozenset(m.name for judge in JUDGES.values() for m in judge.metrics if judge.falls)
SHARES = frozenset(m.name for judge in JUDGES.values() for m in judge.metrics if judge.shares)
KNOWN: Mapping[str, Metric] = {**METRICS, **JUDGED}
"""Every metric that curves and tables may have."""


def judged_in(columns: Any) -> list[str]:
    """The judges' metrics among the columns of a table, in order."""
    return [name for name in JUDGED if name in columns]
