"""How a saliency map may reach a codec (codecs/conditioning.py, codecs/agustsson2019.py); `none` and `loss` leave the
codec as it is."""

from typing import Literal

Mechanism = Literal["none", "loss", "concat", "sft", "gain", "hyper", "select"]

NEEDS_MAP = ("concat", "sft", "gain", "hyper", "select")
"""Mechanisms that encode with a map."""

LEVELLED = ("gain", "hyper")
"""Mechanisms whose map moves the rate level from place to place: their loss has the lambda of each place's level."""

MAX_SPAN = 32.0
"""Levels between the most and the least salient place at most, so that no place is moved by more steps than a level map
can tell."""
