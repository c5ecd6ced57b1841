"""What says how a codec is built. Loads nothing heavy: planning asks for it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from models.errors import FoveaError


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What rebuilds a codec before its weights are loaded; kept as JSON beside them.

    lmbda: the levels' Lagrange multipliers, rising; none where the rate is m. Distortion is measured on 0..255 (lmbda ·
    255² · MSE of [0, 1]).
    """

    codec: str
    n: int
    m: int
    mechanism: str = "none"
    lmbda: tuple[float, ...] = (0.013,)
    gamma: float = 1.0
    span: float = 0.0
    options: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> str:
        """JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """From what `to_json` wrote. Raises FoveaError for what is not a codec's configuration."""
        try:
            options = tuple((str(k), v) for k, v in raw.get("options", ()))
            return cls(**{**raw, "lmbda": tuple(raw["lmbda"]), "options": options})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise FoveaError(f"not a codec configuration: {error}") from error
