"""Codecs with a factorized prior: every symbol is coded by its channel's own density (entropy.py), without context.

x ─► g_a ─► y ─► × gain ─► round ─► q ─► range coder with one table a channel and level ─► × inverse_gain ─► g_s ─► x_hat
"""

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import CodecConfig, Latents
from models.codecs.conditioned import ConditionedCodec, Modelled, Setting
from models.codecs.entropy import bits


class FactorizedCodec(ConditionedCodec):
    """One density a channel under the gains of the levels. Files: level map, escapes, coded symbols."""

    coded_strings = 2

    def __init__(self, config: CodecConfig):
        super().__init__(config, bottleneck=config.m)

    def model(self, y: Tensor, at: Setting) -> Modelled:
        """As `ConditionedCodec.model` says. likelihoods: "y"."""
        with torch.autocast(y.device.type, enabled=False):
            y_hat, likelihoods = self.entropy_bottleneck(y.float(), self.gains(at.level), quantise=at.quantise)
        return Modelled(y_hat, {"y": likelihoods})

    def quantise(self, y: Tensor, at: Setting) -> Latents:
        gain = self.gains(at.level)
        symbols = self.entropy_bottleneck.symbols(y, gain)
        return Latents(symbols, self.entropy_bottleneck.dequantized(symbols, gain))

    def escaped(self, symbols: Tensor, level: Tensor) -> np.ndarray:
        outside = np.zeros(self.config.m)
        for one, at in zip(symbols, level.reshape(-1, 1, 1, 1, 1), strict=True):
            indexes, tables = self.channel_indexes(self.config.m, at, *one.shape[1:])
            held = self.built().holds(one.cpu().numpy().ravel(), indexes, tables)
            outside += (~held).reshape(self.config.m, -1).mean(axis=1)
        return outside / len(symbols)

    @torch.no_grad()
    def build_tables(self) -> None:
        """As `ConditionedCodec.build_tables` says. One table for each channel and each level that a file can name."""
        if self.top_level:
            level = torch.tensor(self.rows, device=self.device).reshape(-1, 1, 1, 1)
            self.tables = self.entropy_bottleneck.tables(list(self.gain(level)[0][:, :, 0, 0]))
        else:
            self.tables = self.entropy_bottleneck.tables([None])

    def write(self, y: Tensor, at: Setting) -> tuple[tuple[bytes, ...], Tensor, float]:
        symbols, y_hat = self.quantise(y, at)
        likelihoods = self.entropy_bottleneck(y, self.gains(at.level), training=False)[1]
        indexes, used = self.channel_indexes(self.config.m, at.level, y.shape[2], y.shape[3])
        coded, escapes = self.built().encode(symbols.cpu().numpy().ravel(), indexes, used)
        return (escapes, coded), y_hat, bits({"y": likelihoods}, escapes)

    def read(self, strings: tuple[bytes, ...], base: Tensor, level: Tensor, h: int, w: int) -> Tensor:
        escapes, coded = strings
        indexes, used = self.channel_indexes(self.config.m, level, h, w)
        symbols = torch.from_numpy(self.built().decode(coded, escapes, indexes, used))
        return self.entropy_bottleneck.dequantized(
            symbols.reshape(1, self.config.m, h, w).to(self.device), self.gains(level)
        )
