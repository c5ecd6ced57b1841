"""Arms: named combinations of mechanism, maps and weighting (docs/experiments.md), as fields of a record."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from models.errors import FoveaError

ARMS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"mechanism": "none", "maps": "none"},
    "weighted_raw": {"mechanism": "loss", "maps": "predicted", "normalised": False, "gamma": 1.0},
    "weighted": {"mechanism": "loss", "maps": "predicted", "gamma": 1.0},
    "saliency_concat": {"mechanism": "concat", "maps": "predicted", "gamma": 1.0},
    "saliency_sft": {"mechanism": "sft", "maps": "predicted", "gamma": 1.0},
    "saliency_gain": {"mechanism": "gain", "maps": "predicted"},
    "saliency_hyper": {"mechanism": "hyper", "maps": "predicted"},
    "saliency_select": {"mechanism": "select", "maps": "predicted"},
}
CONTROLS = ("shuffled", "center", "oracle")
UNCONTROLLED = ("uniform", "weighted_raw")
"""Arms without controls in sweeps: `weighted_raw` is about the mean of the weights."""


def arm(name: str) -> dict[str, Any]:
    """The record's fields for an arm such as `weighted` or `saliency_gain@center`. Raises FoveaError for an unknown arm or
    control."""
    base, _, control = name.partition("@")
    if base not in ARMS or (control and (base == "uniform" or control not in CONTROLS)):
        near = difflib.get_close_matches(name, [*ARMS, *with_controls(list(ARMS)[1:], CONTROLS)], n=1)
        raise FoveaError(
            f"unknown arm {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}arms: {', '.join(ARMS)}, each but uniform "
            f"also with @{', @'.join(CONTROLS)}"
        )
    return {**ARMS[base], **({"maps": control} if control else {})}


def with_controls(arms: Iterable[str], controls: Iterable[str]) -> tuple[str, ...]:
    """The arms, then the controls of each that has some."""
    arms = tuple(arms)
    return (*arms, *(f"{a}@{c}" for a in arms if a not in UNCONTROLLED for c in controls))
