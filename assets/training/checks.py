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


#: the doctor's questions: the check's name and what it asks
_ASKED = {
    "gradients": ("every_parameter_learns", "Each parameter of the encoder receives a gradient."),
    "reach": (
        "quantiser_levels_are_reached",
        "At least half of the channels reach both signs without gaps, and hardly a symbol lies beyond the tables.",
    ),
    "rate": (
        "file_size_matches_the_estimate",
        "The size of the real file is within 2 % + 64 bytes of what the entropy model estimates in training.",
    ),
    "reconstruction": (
        "decoder_reproduces_the_encoder",
        "The file decodes to exactly the picture that the encoder reconstructed.",
    ),
    "latents": ("latents_carry_the_picture", "With the latents of another picture the reconstruction is destroyed."),
    "adversary": ("discriminators_teach", "The gradient of each scale of the discriminator reaches the generator."),
    "variety": ("crops_vary", "No training picture is always cut at the same place."),
    "gap": (
        "generalisation_gap_is_known",
        "Training and held-out pictures were both measured, and the difference is on record.",
    ),
}


def _found(name: str, made: Made) -> tuple[bool, dict[str, Any]] | None:
    """The doctor's finding of a training run; None where it was not asked: shipped weights were examined when they were
    made."""
    path = made.folder / "doctor.json"
    findings = json.loads(path.read_text()) if path.exists() else []
    finding = next((f for f in findings if f["name"] == name), None)
    if finding is None:
        return None
    numbers = {k: float(v) for k, v in finding.get("numbers", {}).items()}
    return bool(finding["passed"]), {"detail": finding["detail"], **numbers}


#: one blocking check for each of the doctor's questions
DOCTOR = tuple(
    Check(name, about, functools.partial(_found, asked), blocking=True) for asked, (name, about) in _ASKED.items()
)
