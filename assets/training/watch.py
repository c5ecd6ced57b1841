"""What a training of a codec is looked at by on its way: a few pictures of both parts, through the forward alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from assets.saliency.pairs import Pairs
from assets.training.milestones import Milestones, Shown
from models.codecs.base import Codec, map_to_tensor, picture_to_tensor, tensor_to_picture
from models.metrics import psnr_db


class Watch(NamedTuple):
    """The probe of a training, and what keeps its stages. seen: training pictures. held: held-out ones, maybe none. stages
    show held-out pictures, or training pictures where none are held out, at the steps `kept_at` and before the first."""

    seen: Pairs
    held: Pairs
    milestones: Milestones
    kept_at: tuple[int, ...]
    steps: int
    every: int
    rate: float
    perceive: Callable[[Any, Any], float] | None

    def keep(self, step: int, codec: Codec) -> dict[str, float]:
        """Look at the pictures of the stages and keep how their crops look."""
        shown: list[Shown] = []
        watched = self.held if self.held.pictures else self.seen
        values = look(codec, watched, self.rate, shown, self.perceive)
        self.milestones.keep(step, shown)
        return values

    def probe(self, step: int, codec: Codec) -> dict[str, float]:
        """What a row says of both parts; {} at steps that only the stages are for."""
        kept = self.keep(step, codec) if step in self.kept_at else None
        if step % self.every and step != self.steps:
            return {}
        if not self.held.pictures:
            kept = kept or look(codec, self.seen, self.rate, None, self.perceive)
            return {f"probe/train_{k}": v for k, v in kept.items()}
        train = look(codec, self.seen, self.rate, None, self.perceive)
        held = kept or look(codec, self.held, self.rate, None, self.perceive)
        found = {f"probe/train_{k}": v for k, v in train.items()} | {f"probe/val_{k}": v for k, v in held.items()}
        return found | {"probe/gap_db": train["psnr_db"] - held["psnr_db"]}


def spread(count: int, wanted: int) -> list[int]:
    """Places of `wanted` pictures of `count`, or of all, spread evenly: a handful of the first ones would be one scene."""
    chosen = min(wanted, count)
    return sorted({round(i * (count - 1) / max(chosen - 1, 1)) for i in range(chosen)})


def look(
    codec: Codec,
    looked: Pairs,
    rate: float,
    shown: list[Shown] | None = None,
    perceive: Callable[[Any, Any], float] | None = None,
) -> dict[str, float]:
    """Mean PSNR and estimated bpp over a few whole pictures, by the forward in evaluation mode: no file is written. shown:
    gets each picture's reconstruction. perceive: also the mean of this distance of x_hat and x, as `perceptual`."""
    was_training, device = codec.training, codec.device
    codec.eval()
    psnr, bpp, perceived = [], [], []
    try:
        with torch.inference_mode():
            for place, picture in enumerate(looked.pictures):
                height, width = picture.shape[:2]
                x, s = picture_to_tensor(np.asarray(picture), codec.stride), None
                if looked.maps is not None:
                    s = map_to_tensor(np.asarray(looked.maps[place]), (height, width), codec.stride)
                    s = s.to(device)
                level = torch.tensor([codec.level_of(rate)], device=device)
                seen = codec(x.to(device), saliency_map=s, level=level)
                x_hat = tensor_to_picture(seen.x_hat.cpu(), height, width)
                psnr.append(psnr_db(np.asarray(picture), x_hat))
                bits = sum(float(-torch.log2(p).sum()) for p in seen.likelihoods.values())
                bpp.append((bits + float(seen.side_bits.sum())) / (height * width))
                if shown is not None:
                    shown.append(Shown(x_hat, psnr[-1], bpp[-1]))
                if perceive is not None:
                    perceived.append(perceive(seen.x_hat.clamp(0, 1).cpu(), x))
    finally:
        codec.train(was_training)
    found = {"psnr_db": float(np.mean(psnr)), "bpp_estimate": float(np.mean(bpp))}
    return found | ({"perceptual": float(np.mean(perceived))} if perceived else {})
