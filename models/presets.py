"""Presets: widths and budgets of trainings by name, `[presets.NAME]` of presets.toml and of the user's fovea.toml."""

import functools
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from models.card import Objective, Value
from models.config import SETTINGS_FILE, config_folder, read_tables
from models.errors import FoveaError
from models.validation import Typed, checked, unknown

SHIPPED = Path(__file__).with_suffix(".toml")
Count = Annotated[int, Field(ge=1)]
Factor = Annotated[float, Field(ge=0)]


class Preset(Typed):
    """Widths and budget. `steps` is what each arm gets after its trunk, or from scratch without one.

    Learning rates are Adam's; `clip_norm` bounds the global gradient norm (CompressAI's training uses 1.0). ema: decay of
    the exponential moving average of the weights, 0 = off. final_lr_factor: cosine decay ends at lr times this.
    fresh_lr_factor: learning rate of the layers that the trunk lacks, as a multiple of lr. probe_every: steps between
    looks at train and held-out pictures. options: of codec and training, where they differ from the card's.
    """

    model_config = ConfigDict(strict=True)

    n: Count
    m: Annotated[int, Field(ge=0)]
    trunk_steps: Count
    steps: Annotated[int, Field(ge=0)]
    batch_size: Count
    crop: Annotated[int, Field(ge=16)]
    lr: Annotated[float, Field(gt=0)] = 1e-4
    aux_lr: Annotated[float, Field(gt=0)] = 1e-3
    clip_norm: Factor = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_lr_factor: Factor = 0.05
    fresh_lr_factor: Factor = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpoint_every: Count = 500
    probe_every: Count = 1000
    objective: Objective = "rate_distortion"
    options: dict[str, Value] = {}


OVERRIDES = tuple(
    name for name in Preset.model_fields if name not in ("checkpoint_every", "probe_every", "options", "objective")
)
"""What a record may set in place of its preset's value."""


@functools.cache
def shipped_presets() -> dict[str, Preset]:
    """Those that come with Fovea, by name."""
    tables = read_tables(SHIPPED, "presets")
    return {name: checked(Preset, table, f"{SHIPPED}: presets.{name}") for name, table in tables.items()}


def find_preset(name: str) -> Preset:
    """The preset of this name. Raises FoveaError that names file, table and field; other tables are not looked at."""
    file = config_folder() / SETTINGS_FILE
    own, shipped = read_tables(file, "presets"), shipped_presets()
    if name in own and name in shipped:
        raise FoveaError(f"{file}: presets.{name}: a preset of this name ships with Fovea; choose another name")
    if name in own:
        return checked(Preset, own[name], f"{file}: presets.{name}")
    if name not in shipped:
        raise FoveaError(unknown("preset", name, shipped | own))
    return shipped[name]
