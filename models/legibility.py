"""Texts that a machine can still read: known lines in known boxes, read by RapidOCR's PP-OCR recogniser, whose weights lie
in its package.

Only texts that the engine reads without a fault in the original, at that size, are counted: of the original the share is 1
by construction, and what is lost is lost by the codec. Each box is read by itself, so that no reading depends on another.
"""

import math
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.judges import Picture, Text, Verdict
from models.weights import sha256_of

MARGIN = 1 / 8
"""Of a box's height, on each side: recognisers expect letters not to touch the border."""

#: a picture of one line, uint8 RGB, as text
Read = Callable[[Picture], str]


def _letters(text: str) -> str:
    """Without blanks, which engines guess from gaps, and capitals, which many letters only show by their size."""
    return "".join(text.split()).casefold()


def characters_read(text: str, found: str) -> float:
    """1 − edit distance / length, at least 0. The distance is Levenshtein's; blanks and capitals do not count. Raises
    ZeroDivisionError for a text of blanks."""
    truth, other = _letters(text), _letters(found)
    row = list(range(len(other) + 1))
    for i, letter in enumerate(truth, 1):
        before, row[0] = row[0], i
        for j, seen in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != seen))
    return max(0.0, 1 - row[-1] / len(truth))


def cut_out(picture: Picture, text: Text) -> Picture:
    """The box with its margin, in whole pixels, as far as it lies inside the picture."""
    margin = MARGIN * text.height
    left, top = (math.floor(max(0, v - margin)) for v in (text.x, text.y))
    right, bottom = (math.ceil(v + margin) for v in (text.x + text.width, text.y + text.height))
    return np.ascontiguousarray(picture[top:bottom, left:right])


class Reader:
    """Which texts a decoded picture still shows. mark: how its columns end."""

    def __init__(self, read: Read, about: str, mark: str = ""):
        self.read, self.about, self.mark = read, about, mark

    def shares(self, picture: Picture, texts: Sequence[Text]) -> list[float]:
        """Characters read of each text, 0 to 1."""
        return [characters_read(t.text, self.read(cut_out(picture, t))) for t in texts]

    def sees(self, original: Picture, texts: Sequence[Text], looked: NDArray[Any] | None = None) -> Verdict:
        """characters_read: their mean over the picture's counted texts; texts_read: the share of these that is read without a
        fault. NaN where none is counted."""
        counted = [t for t, share in zip(texts, self.shares(original, texts), strict=True) if share == 1]

        def verdict(decoded: Picture) -> dict[str, float]:
            shares = np.array(self.shares(decoded, counted) or [np.nan])
            return {
                f"characters_read{self.mark}": shares.mean(),
                f"texts_read{self.mark}": np.where(np.isnan(shares), shares, shares == 1).mean(),
            }

        return verdict


def opened(name: str = "ocr") -> Reader:
    """RapidOCR on one thread, recognition alone: PP-OCRv6 of its present package (`ocr`), PP-OCRv4 of the one before it
    (`ocr_v4`). Raises ImportError where the package is not installed."""
    one_at_a_time = threading.Lock()
    if name == "ocr_v4":
        import rapidocr_onnxruntime as package

        earlier: Any = package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

        def lines(line: Picture) -> Sequence[str]:
            found, _ = earlier(line, use_det=False, use_cls=False, use_rec=True)
            return [text for text, _ in found or ()]

    else:
        import rapidocr as package

        off = dict.fromkeys(("Global.use_det", "Global.use_cls", "Global.use_preprocess_img"), False)
        threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
        engine: Any = package.RapidOCR(params={**off, **threads, "Global.log_level": "error"})

        def lines(line: Picture) -> Sequence[str]:
            return engine(line).txts or ()

    def read(line: Picture) -> str:
        with one_at_a_time:
            return "".join(lines(line[..., ::-1].copy())) if line.size else ""

    (weights,) = Path(package.__file__).parent.glob("models/*_rec_*.onnx")
    about = f"{package.__name__} {version(package.__name__)}, {weights.stem}, sha256 {sha256_of(weights)[:16]}"
    return Reader(read, about, name.removeprefix("ocr"))
