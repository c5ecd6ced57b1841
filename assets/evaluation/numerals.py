"""How numbers are written on pages: a true minus, a fixed count of digits, a dash for what is not known."""

import math
from collections.abc import Mapping
from typing import Any

from models.judges import KNOWN


def number(value: Any, digits: int = 2, *, sign: bool = False, unit: str = "") -> str:
    """`−1.23 dB`, the unit after a narrow space that does not break."""
    if value is None or not math.isfinite(float(value)):
        return "–"
    rounded = round(float(value), digits) + 0.0  # −0.0 is no number that people know
    text = f"{rounded:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return f"{text}\u202f{unit}" if unit else text


def counted(count: Any, what: str = "picture") -> str:
    """`1 picture`, `3 pictures`."""
    return f"{count} {what if count == 1 else f'{what}s'}"


def digits(metric: str) -> int:
    """How many digits a metric is written with."""
    return 2 if KNOWN[metric].unit == "dB" else 4


def percent(value: Any) -> str:
    """A BD-rate, signed, one digit."""
    return number(value, 1, sign=True, unit="%")


def scale_unit(metric: str) -> str:
    """The unit of the scale on which curves of a metric are compared."""
    return "dB" if KNOWN[metric].decibel else KNOWN[metric].unit


def gain(value: Any, metric: str) -> str:
    """A difference in quality on that scale, signed."""
    return number(value, 2 if scale_unit(metric) else 3, sign=True, unit=scale_unit(metric))


def decibel(value: Any) -> str:
    """A difference in quality, signed, two digits."""
    return number(value, 2, sign=True, unit="dB")


def interval(low: Any, high: Any, digits: int = 1, *, sign: bool = True) -> str:
    """An interval in brackets, or a dash."""
    if not (math.isfinite(float(low)) and math.isfinite(float(high))):
        return "–"
    return f"[{number(low, digits, sign=sign)},\u00a0{number(high, digits, sign=sign)}]"


def with_interval(row: Mapping[str, Any]) -> str:
    """A BD-rate and, where it is known, its interval."""
    known = math.isfinite(row["ci_low"])
    text = percent(row["bd_rate_percent"])
    return f"{text} {interval(row['ci_low'], row['ci_high'])}" if known else text


def rate_label(name: str, rate: float) -> str:
    """`λ 0.013`, `channels 8` or `quality 80`: four digits, which is all that rates of sweeps have."""
    return f"{'λ' if name == 'lmbda' else name} {rate:.4g}"
