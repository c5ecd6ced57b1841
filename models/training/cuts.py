"""A synthesis transform for the pictures of cut files: a branch of a codec whose files stay what they are.

What a cut file shows are means of what symbols may be, not symbols: latents that g_s was not trained for. Its copy is trained
for them, on files of random maps that end anywhere in their order; nothing else changes, so that plain files, and progressive
ones that are whole, show the pictures that they did.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.codecs import conditioning
from models.codecs.base import LEVEL_STEPS, Codec, Output
from models.codecs.conditioned import Setting
from models.codecs.hyperprior import HyperpriorCodec
from models.errors import FoveaError
from models.losses import rate_distortion
from models.training.data import FrameSet
from models.training.loop import Move
from models.training.rate_distortion import RateDistortion

BELOW = 0.5
"""By how many levels the first cuts lie below the lowest level."""
USUAL = 0.5
"""Share of the files that are made at the second highest rate, as those are that are to be cut anywhere; the others at
any rate, as those that `fovea compress --bpp` cuts to a size."""
SPANS = (2.0, 6.0)


def with_levels(codec: Codec) -> HyperpriorCodec:
    """The codec. Raises FoveaError for one to which nothing can be added."""
    if not (isinstance(codec, HyperpriorCodec) and codec.cuttable and codec.config.mechanism == "gain"):
        raise FoveaError(
            f"{codec.config.codec} with mechanism {codec.config.mechanism}: a context model, or a transform for cut files, is "
            "for codecs with a hyperprior, levels and mechanism gain, of those that ship for light"
        )
    return codec


class Cuts(RateDistortion):
    """record, codec, frames: as `RateDistortion` has them. codec: with coding tables; its transform for cuts goes on, else
    a copy of g_s begins.

    Distortion has at each place the lambda of the level that the file ends at there; rows have no bits."""

    codec: HyperpriorCodec
    shareable = False  # where files end is drawn picture by picture over the whole batch
    names = ("loss", "mse")
    shown = ("loss", "psnr_db")

    def __init__(self, record: Mapping[str, Any], codec: Codec, frames: FrameSet):
        own = with_levels(codec)
        super().__init__(record, own, frames)
        own.built()
        self.first = copy.deepcopy(own.g_s.state_dict())
        cuts = own.additions().get("cuts")
        own.g_s.load_state_dict(self.first | dict(cuts.weights if cuts else {}))

    def trained(self, codec: Codec) -> Sequence[Tensor]:
        return [*codec.get_submodule("g_s").parameters()]

    def moves(self, step: int) -> Iterator[Move]:
        """One step."""
        plan, codec, optimiser = self.plan, self.codec, self.optimisers["main"]
        batch, drawn = self.drawn(step, self.centres)
        rng = np.random.Generator(np.random.Philox(key=[plan.seed, 0xC075], counter=[0, 0, 0, step]))
        with torch.no_grad():
            y = codec.analyse(batch.x, None)
            apart = rng.uniform(*SPANS)
            steps = conditioning.level_steps(
                codec.given(drawn.saliency_map), plan.gamma, apart, codec.stride * codec.cell, drawn.centre
            )
            ends = drawn.level - BELOW
            tops = [
                codec.top_level - 1 if rng.random() < USUAL else rng.uniform(max(end, 0), codec.top_level)
                for end in ends.tolist()
            ]
            shown, places = zip(*(self._file(*one) for one in zip(y, steps, tops, ends, strict=True)), strict=True)
        with self.autocast():
            x_hat = codec.show(torch.cat(shown))
        height, width = batch.x.shape[2:]
        lmbda = conditioning.spread(codec.lmbda_at(torch.cat(places)), height, width, codec.stride)
        output = Output(x_hat, {}, batch.x.new_zeros(len(y)), lmbda)
        found = rate_distortion(output, batch.x, valid=batch.valid, emphasis=self.emphasis(drawn.level))
        for group in optimiser.param_groups:
            group["lr"] = plan.lr_at(step)
        numbers = torch.stack((found.loss, found.mse)).detach()
        yield Move(self.part * found.loss, optimiser, self.averaged, plan.clip_norm, numbers)

    def _file(self, y: Tensor, steps: Tensor, top: float, end: Tensor) -> tuple[Tensor, Tensor]:
        """What a file made at a level shows when it ends at another, 1×C×h×w, and the level that each place ends at."""
        codec, y, last = self.codec, y[None], round(float(end) * LEVEL_STEPS)
        base = codec.base_level(y, torch.tensor([round(top * LEVEL_STEPS) / LEVEL_STEPS]))
        level = codec.levels_at(steps[None], base, *y.shape[2:])
        ahead = codec.ahead(steps[None], *y.shape[2:])
        shown = codec.beginning(y.float(), Setting(None, base, level), ahead, last)
        ends = np.broadcast_to((last + ahead) / LEVEL_STEPS, y.shape[2:])[None, None]
        return shown, torch.from_numpy(ends.astype(np.float32)).to(y.device).clamp(0, codec.top_level)

    def about(self, step: int) -> str:
        return f"cut files, {self.seen_at(step)}"

    def write(self, folder: Path) -> Path:
        """The codec that training began with, and beside it the transform for cuts, of float16 numbers."""
        from models.codecs.catalogue import ADDED, save_codec

        codec = self.chosen().to("cpu")
        found = {name: v.half() for name, v in codec.get_submodule("g_s").state_dict().items()}
        codec.get_submodule("g_s").load_state_dict(self.first)
        codec.add("cuts", found)
        save_codec(codec, folder, half=True)
        return folder / ADDED["cuts"]
