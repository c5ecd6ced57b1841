"""A context model (codecs/context.py) for a codec whose weights, and so the pictures of its files, stay what they are.

It is trained on what files have: symbols, and the numbers of the tables that the hyperprior chooses, at all rates, with maps
as the codec was trained on and with none.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import LEVEL_STEPS, Codec
from models.codecs.conditioned import Setting
from models.codecs.context import ContextModel, weights
from models.codecs.hyperprior import HyperpriorCodec
from models.training.cuts import SPANS, with_levels
from models.training.data import FrameSet
from models.training.loop import Move
from models.training.rate_distortion import RateDistortion

LOOKED_AT = 24
"""Batches that say which channels cost most."""


class ContextTraining(RateDistortion):
    """record, codec, frames: as `RateDistortion` has them. codec: with coding tables; its context model goes on, else a new one
    begins.

    The loss is, in the mean over pictures, bits of y over the root of what they are without a context model: a picture of
    few bits counts, too. Rows have the share of the bits that is saved."""

    codec: HyperpriorCodec
    shareable = False  # where channels stand is found by one process
    names = ("loss", "bpp", "saved_percent")
    shown = names

    def __init__(self, record: Mapping[str, Any], codec: Codec, frames: FrameSet):
        own = with_levels(codec)
        super().__init__(record, own, frames)
        own.built()
        torch.manual_seed(self.plan.seed)
        self.model = ContextModel(own.config.m)
        self.begun = own.context is not None
        if own.context is not None:
            self.model.load_state_dict(own.context.model.state_dict())

    def identity(self) -> str:
        """With the context model's own initial weights."""
        hashed = hashlib.sha256(super().identity().encode())
        for parameter in self.model.parameters():
            hashed.update(parameter.detach().cpu().numpy().tobytes())
        return hashed.hexdigest()

    def trained(self, codec: Codec) -> Sequence[Tensor]:
        """Of the context model."""
        return [*self.model.parameters()]

    def equip(self) -> None:
        """As `RateDistortion` says; channels of larger scales stand before others."""
        super().equip()
        self.codec.eval()
        self.model.to(self.device)
        self.networks = {"context": self.model}
        self.scales = self.codec.coding_scales.float().to(self.device)
        if not self.begun:
            numbers = sum(self._files(step)[1].mean(dim=(0, 2, 3)) for step in range(LOOKED_AT))
            assert isinstance(numbers, Tensor)
            self.model.order.copy_(numbers.argsort(descending=True, stable=True))

    @torch.no_grad()
    def _files(self, step: int) -> tuple[Tensor, Tensor]:
        """Symbols of the files of a step's crops, and the numbers of their scales, float32 N×M×h×w."""
        batch, drawn = self.drawn(step, self.centres)
        rng = np.random.Generator(np.random.Philox(key=[self.plan.seed, 0xC047], counter=[0, 0, 0, step]))
        y = self.codec.analyse(batch.x, None)
        base = self.codec.base_level(y, torch.round(drawn.level * LEVEL_STEPS) / LEVEL_STEPS)
        level, _ = self.codec.places(base, y, drawn.saliency_map, drawn.centre, span=rng.uniform(*SPANS))
        symbols, numbers = self.codec.coded_values(y.float(), Setting(None, base, level))
        return symbols.float().to(self.device), numbers.float().to(self.device)

    def moves(self, step: int) -> Iterator[Move]:
        """One step."""
        plan, optimiser = self.plan, self.optimisers["main"]
        symbols, numbers = self._files(step)
        found, before = self.model.estimate(symbols, numbers, self.scales)
        pixels = self.codec.stride**2 * symbols[0, 0].numel()
        loss = (found / (pixels * before.clamp_min(1)).sqrt()).mean()
        for group in optimiser.param_groups:
            group["lr"] = plan.lr_at(step)
        saved = 100 * (1 - found.sum() / before.sum())
        yield Move(
            loss, optimiser, self.averaged, plan.clip_norm, torch.stack((loss, found.mean() / pixels, saved)).detach()
        )

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """The means."""
        return means

    def about(self, step: int) -> str:
        """Learning rate and pictures."""
        return f"context model, {self.seen_at(step)}"

    @torch.no_grad()
    def chosen(self) -> Codec:
        """The codec with the running average of the context model."""
        kept, model = copy.deepcopy(self.codec), copy.deepcopy(self.model)
        for parameter, average in zip(model.parameters(), self.average, strict=False):
            parameter.copy_(average)
        kept.add("context", weights(model, kept.coding_scales))
        return kept.eval()

    def write(self, folder: Path) -> Path:
        """The codec that training began with, and beside it the context model, of float16 numbers."""
        from models.codecs.catalogue import ADDED, save_codec

        save_codec(self.chosen().to("cpu"), folder, half=True)
        return folder / ADDED["context"]
