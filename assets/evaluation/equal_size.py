"""What a report shows of a variable-rate codec: files of the same size as those of its other arms."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from assets.evaluation.measure import Measured, Subject, measure_codec
from models.errors import FoveaError

#: of a picture's files, as far as they are within the codec's reach
SIZES_BPP = (0.15, 0.3, 0.6, 1.2)


def measure_shown(codec: Any, subjects: Sequence[Subject], rates: Sequence[float], *, threads: int = 1) -> Measured:
    """Rows and reconstructions of each picture at the levels whose files come nearest to each of SIZES_BPP, within the few
    per cent that levels are apart; at `rates` where none is within reach. codec: of variable rate, as measure_codec takes it;
    one that was trained for a single rate is shown at the size that comes nearest to it."""
    from models.codecs.batch import in_order
    from models.codecs.target_rate import search_rate

    def shown(subject: Subject) -> Measured:
        analysed = codec.analysed(subject.picture, subject.condition)
        equal: set[float] = set()
        sizes: tuple[float, ...] = SIZES_BPP
        if len(rates) == 1:
            own = len(codec.encode_analysed(analysed, rates[0]).data)
            pixels = subject.picture.shape[0] * subject.picture.shape[1]
            sizes = (min(SIZES_BPP, key=lambda bpp: abs(math.log(bpp * pixels / 8 / own))),)
        for bpp in sizes:
            with contextlib.suppress(FoveaError):  # out of reach
                equal.add(search_rate(codec, analysed, bpp))
        return measure_codec(codec, [subject], sorted(equal) or rates, keep=frozenset([subject.image]))

    found = Measured([], {})
    for one in in_order(shown, subjects, threads=threads):
        found.rows.extend(one.rows)
        found.kept.update(one.kept)
    return found
