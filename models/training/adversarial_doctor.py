"""What the codec doctor asks of an adversarial training: does every discriminator reach the generator, and does the
generator see more than one view of each picture? Both failed silently in the public port of Agustsson et al. 2019."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.training.adversarial import DISCRIMINATORS, Judges, Terms, cutter_of
from models.training.data import Crops, FrameSet
from models.training.doctor import Finding
from models.training.rate_distortion import Plan, crops_of

ROUNDS = 4
"""How often every picture is cut for the look at its crops."""


def examine_training(record: Mapping[str, Any], folder: Path, frames: FrameSet) -> list[Finding]:
    """Both examinations. record: as it was trained. folder: what `adversarial.train` returned. frames: its pictures."""
    plan, terms = Plan.of(record), Terms.of(record)
    found = [variety(plan, terms, frames)]
    if terms.judging:
        judges = Judges(terms, plan.seed, torch.device("cpu"))
        judges.discriminators.load_state_dict(load_file(folder / DISCRIMINATORS))
        batch = _crops(plan, terms, frames).at(0)
        found.insert(0, adversary(judges, batch.x, plan.distortion))
    return found


def _crops(plan: Plan, terms: Terms, frames: FrameSet) -> Crops:
    bare = FrameSet(frames.pictures, None, frames.names)
    return crops_of(plan._replace(weighting=None), bare, torch.device("cpu"), cutter_of(terms))


def adversary(judges: Judges, x: Tensor, distortion: str) -> Finding:
    """Which discriminators does the generator's adversarial term ask? Those whose weights its gradient reaches."""
    scales = judges.discriminators.scales
    judges.discriminators.requires_grad_(True)
    blurred = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    term = judges.judge(x, blurred, distortion=distortion, weight=None, judged=True).adversarial
    silent = []
    for k, one in enumerate(scales):
        got = torch.autograd.grad(term, [*one.parameters()], retain_graph=True, allow_unused=True)
        if all(g is None or not bool((g != 0).any()) for g in got):
            silent.append(k)
    judges.discriminators.zero_grad(set_to_none=True)
    numbers = {"scales": float(len(scales)), "silent_scales": float(len(silent))}
    detail = f"all {len(scales)} discriminators reach the generator"
    if silent:
        names = ", ".join(f"1/{1 << k}" if k else "full size" for k in silent)
        detail = f"the generator's adversarial term leaves out the discriminator at {names}"
    return Finding("adversary", not silent, detail, numbers)


def variety(plan: Plan, terms: Terms, frames: FrameSet) -> Finding:
    """Is a picture cut in more than one way over a few rounds? Otherwise nothing keeps it from being learnt by heart."""
    crops = _crops(plan, terms, frames)
    views: dict[int, set[tuple[int, int, bool]]] = {}
    for step in range(-(-ROUNDS * len(frames) // plan.batch)):
        for picture, top, left, flip in zip(*crops.places(step), strict=True):
            views.setdefault(int(picture), set()).add((int(top), int(left), bool(flip)))
    fixed = sum(len(v) == 1 for v in views.values())
    numbers = {"pictures": float(len(views)), "fixed_pictures": float(fixed)}
    # four looks at a picture that only mirrors are alike one time in eight; with room to move, hardly ever
    passed = fixed <= len(views) // 2
    detail = f"{fixed} of {len(views)} pictures are cut the same way every time: no augmentation"
    if passed:
        detail = f"{len(views) - fixed} of {len(views)} pictures are cut in several ways"
    return Finding("variety", passed, detail, numbers)
