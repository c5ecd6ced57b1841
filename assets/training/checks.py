"""The codec doctor as checks: a codec that fails one is not compared."""

import functools
import json
from typing import Any

from assets.graph import Check, Made
from models.experiments import Experiment, Trunk

PROBE_PICTURES, GENERATIVE_PROBE_PICTURES = 4, 8


def looked_at(entry: Trunk | Experiment) -> int:
    """How many pictures of each part a training's probes see, the first of val by name; the doctor's are among them."""
    return GENERATIVE_PROBE_PICTURES if entry.card.objective == "adversarial" else PROBE_PICTURES


_ASKED = {
    "gradients": "Every encoder parameter gets a gradient.",
    "reach": "Every quantiser level is reachable.",
    "rate": "Real bpp is within 2 % + 64 bytes of the estimate.",
    "reconstruction": "Decoding reproduces the encoder's reconstruction exactly.",
    "latents": "Shuffled latents destroy the picture.",
    "adversary": "Each discriminator scale reaches the generator.",
    "variety": "No picture is always cut the same way.",
    "gap": "The gap between train and held-out pictures is on record.",
}


def _found(name: str, made: Made) -> tuple[bool, dict[str, Any]]:
    """The doctor's finding of a training run; shipped weights have been examined when they were made."""
    path = made.folder / "doctor.json"
    findings = json.loads(path.read_text()) if path.exists() else []
    finding = next((f for f in findings if f["name"] == name), None)
    if finding is None:
        return True, {"detail": "not asked of this codec"}
    numbers = {k: float(v) for k, v in finding.get("numbers", {}).items()}
    return bool(finding["passed"]), {"detail": finding["detail"], **numbers}


#: one blocking check for each of the doctor's questions
DOCTOR = tuple(
    Check(name, about, functools.partial(_found, name), blocking=True) for name, about in _ASKED.items()
)
