"""The codec doctor: is a codec fit to be compared?

Most published trouble with learned codecs is one of a few silent faults: an encoder that gets no gradient, symbols
that cannot occur, an estimated rate that no file has, a decoder that shows something else than the encoder promised, or
one that has learnt pictures by heart and ignores the latents. Each is looked for here by name, on any codec of the
protocol.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.codecs.base import Codec, Encoded, Picture, map_to_tensor, picture_to_tensor
from models.errors import FoveaError
from models.unexpected import described

RATE_SHARE, RATE_BYTES = 0.02, 64
"""How far a file may be from the estimate: this share of it and these bytes."""

ESCAPED = 0.01
"""Share of symbols beyond the coding tables that a channel may have."""

COLLAPSE_SHARE, COLLAPSE_DB = 0.5, 0.1
"""Shuffled latents must worsen the squared error by this share of the decibels that the codec gains over one flat
colour, and by so many at the least: after a few training steps there is little to destroy yet."""

LEARNT_DB = 0.5
"""A codec that gains less than this over one flat colour has learnt next to nothing yet."""

CROP = 128


class Finding(NamedTuple):
    """One examination's result. detail: a sentence for people, naming what failed. numbers: for tables and MLflow."""

    name: str
    passed: bool
    detail: str
    numbers: dict[str, float]


class Trip(NamedTuple):
    """A picture at a rate: through the encoder, and back from the file. mse: of the encoder's reconstruction. fault: what
    the decoder raised."""

    rate: float
    file_bits: int
    estimate_bits: float
    mse: float
    same: bool
    fault: str = ""


def examine(
    codec: Codec,
    pictures: Sequence[Picture],
    *,
    maps: Sequence[Picture] | None = None,
    held_out: Sequence[Picture] | None = None,
    held_out_maps: Sequence[Picture] | None = None,
    trunk: Codec | None = None,
    seed: int = 0,
) -> list[Finding]:
    """All examinations of a codec whose `update` has run; it is left as it was. A handful of pictures is enough.

    pictures: from the training part. maps: their saliency maps, for mechanisms that use one. held_out: pictures that
    the codec was not trained on, for the gap between the two. trunk: what the training began from. Files are made at the lowest, middle and highest rate.
    """
    if not pictures:
        raise FoveaError("the codec doctor needs at least one picture")
    for group, group_maps in ((pictures, maps), (held_out or (), held_out_maps)):
        if group_maps is not None and len(group_maps) != len(group):
            raise FoveaError(f"{len(group)} pictures but {len(group_maps)} saliency maps")
    was_training = codec.training
    codec.eval()
    try:
        pairs = _pairs(pictures, maps) + _pairs(held_out or (), held_out_maps)
        both = trips_of(codec, pairs)
        trips, others = both[: len(pictures) * len(_rates(codec))], both[len(pictures) * len(_rates(codec)) :]
        findings = [
            gradients(codec, pictures, maps, trunk=trunk, seed=seed),
            reach(codec, pictures, maps),
            rate(trips),
            reconstruction(trips),
            latents_matter(codec, pictures, maps, seed=seed),
        ]
        findings = blamed(findings)
        if held_out:
            findings.append(gap(trips, others))
        return findings
    finally:
        codec.train(was_training)


def _pairs(pictures: Sequence[Picture], maps: Sequence[Picture] | None) -> list[tuple[Picture, Picture | None]]:
    return [(p, None if maps is None else maps[i]) for i, p in enumerate(pictures)]


def _rates(codec: Codec) -> list[float]:
    rates = codec.rates
    return sorted({rates[0], rates[len(rates) // 2], rates[-1]})


def trips_of(codec: Codec, pairs: Sequence[tuple[Picture, Picture | None]]) -> list[Trip]:
    """Encode pictures at the rates examined, then decode the files in the same order with a codec built anew from the
    weights, as another process would: nothing that the encoder keeps, on itself or elsewhere, helps the decoder."""
    files = [(p, r, codec.encode(p, saliency_map=m, rate=r)) for p, m in pairs for r in _rates(codec)]
    with torch.random.fork_rng(devices=[]):
        decoder = type(codec)(codec.config).to(codec.device)
    decoder.load_weights(codec.weights())
    for kind, added in codec.additions().items():
        decoder.add(kind, added.weights)
    decoder.eval()
    return [_trip(decoder, *file) for file in files]


def _trip(decoder: Codec, picture: Picture, rate: float, encoded: Encoded) -> Trip:
    promised, fault, same = encoded.reconstruction, "", False
    try:
        same = np.array_equal(decoder.decode(encoded.data), promised)
    except Exception as error:
        fault = described(error)
    mse = float(np.square(promised.astype(np.float64) - picture).mean())
    return Trip(rate, 8 * len(encoded.data), encoded.bits_estimate, mse, same, fault)


def _batch(
    codec: Codec, pictures: Sequence[Picture], maps: Sequence[Picture] | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """Crops from the pictures' middles, all of one size, `count` of them, in turn."""
    height = min(CROP, *(p.shape[0] for p in pictures))
    width = min(CROP, *(p.shape[1] for p in pictures))
    x, s = [], []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        cut = (slice(top, top + height), slice(left, left + width))
        x.append(picture_to_tensor(np.ascontiguousarray(picture[cut]), codec.stride))
        if maps is not None:
            saliency = np.ascontiguousarray(maps[i % len(pictures)][cut])
            s.append(map_to_tensor(saliency, (height, width), codec.stride))
    device = codec.device
    return torch.cat(x).to(device), torch.cat(s).to(device) if s else None


def gradients(
    codec: Codec,
    pictures: Sequence[Picture],
    maps: Sequence[Picture] | None = None,
    *,
    trunk: Codec | None = None,
    seed: int = 0,
) -> Finding:
    """After one optimiser step on a copy, does each parameter get a gradient from the loss, and each parameter of the
    analysis transform one from the distortion alone? The rate's gradient can hide a rounding that stops the other. A
    parameter that has none in the trunk, behind a ReLU that a long training left closed, is no fault of the branch."""
    silent, count = _silences(codec, pictures, maps, seed)
    if not count:
        return Finding("gradients", False, "no parameter gets a gradient from the loss", {"silent": -1.0})
    known: set[str] = set()
    if trunk is not None and any(silent.values()):
        # a trunk may follow maps where its branch has none
        even = maps or [np.full(p.shape[:2], 255, dtype=np.uint8) for p in pictures]
        known.update(*_silences(trunk, pictures, even, seed)[0].values())
    asleep = {name for names in silent.values() for name in names if name in known}
    silent = {source: [n for n in names if n not in known] for source, names in silent.items()}
    faults = [
        f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''} get no gradient from {source}"
        for source, names in silent.items()
        if names
    ]
    numbers = {
        "parameters": float(count),
        "silent": float(sum(map(len, silent.values()))),
        "asleep": float(len(asleep)),
    }
    well = f"every parameter gets a gradient{f', but for {len(asleep)} that have none in the trunk' if asleep else ''}"
    return Finding("gradients", not faults, "; ".join(faults) or well, numbers)


def _silences(
    codec: Codec, pictures: Sequence[Picture], maps: Sequence[Picture] | None, seed: int
) -> tuple[dict[str, list[str]], int]:
    """By what should give them a gradient, the parameters that have none; and how many parameters there are, 0 where the loss
    has no gradient at all."""
    patient = copy.deepcopy(codec).train()
    levels = len(codec.rates)
    count = max(levels, 2)
    x, s = _batch(patient, pictures, maps, count)
    level = torch.arange(count, device=x.device, dtype=torch.float32).remainder(levels)
    parameters = {n: p for n, p in patient.named_parameters() if not n.endswith(".quantiles")}
    optimiser = torch.optim.Adam(parameters.values(), lr=1e-4)
    silent: dict[str, list[str]] = {}
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for examined in (False, True):
            out = patient(x, saliency_map=s, level=level)
            bits = sum((-torch.log2(v).sum() for v in out.likelihoods.values()), x.new_zeros(()))
            distortion = (out.lmbda * 255**2 * (out.x_hat - x).square()).mean()
            loss = bits / (x.shape[0] * x.shape[2] * x.shape[3]) + distortion
            if not loss.requires_grad:
                return {}, 0
            if examined:
                analysis = [n for n in parameters if n.startswith(patient.analysis)]
                silent["the distortion"] = _silent(distortion, parameters, analysis)
            optimiser.zero_grad()
            loss.backward()
            if examined:
                silent["the loss"] = [n for n, p in parameters.items() if not _has(p.grad)]
                silent["the loss, for the map's plane"] = _silent_planes(patient)
            optimiser.step()
    return silent, len(parameters)


def _has(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(torch.isfinite(gradient).all()) and bool((gradient != 0).any())


def _silent(loss: Tensor, parameters: dict[str, torch.nn.Parameter], names: list[str]) -> list[str]:
    if not loss.requires_grad:
        return names
    got = torch.autograd.grad(loss, [parameters[n] for n in names], retain_graph=True, allow_unused=True)
    return [n for n, g in zip(names, got, strict=True) if not _has(g)]


def _silent_planes(codec: Codec) -> list[str]:
    """The analysis transform's first layer, if one of its input planes has no gradient (a map that nobody reads)."""
    for name, p in codec.named_parameters():
        if name.startswith(codec.analysis) and p.ndim == 4 and p.grad is not None:
            planes = p.grad.abs().sum(dim=(0, 2, 3))
            return [f"{name}[:, {i}]" for i in torch.nonzero(planes == 0).flatten().tolist()]
    return []


def reach(codec: Codec, pictures: Sequence[Picture], maps: Sequence[Picture] | None = None) -> Finding:
    """Can symbols on both sides of the channels' medians occur, without gaps, and do they stay within the tables?

    At the highest rate, on the pictures, their negatives, and both with contrast stretched beyond white and black: what
    no such input reaches, no picture does. A single channel may be one-sided or dead (its median need not lie where
    few training steps put the latents); a fault of the quantiser shows in most.
    """
    x, s = _batch(codec, pictures, maps, min(8, max(2, len(pictures))))
    level = x.new_full((x.shape[0],), float(codec.top_level))
    plain = codec.latents(x, saliency_map=s, level=level).symbols
    seen = [plain]
    for contrast in (-1.0, 2.0, -2.0, 4.0, -4.0, 16.0, -16.0):
        stretched = contrast * (x - 0.5) + 0.5
        seen.append(codec.latents(stretched, saliency_map=s, level=level).symbols)
    values = torch.cat(seen).transpose(0, 1).flatten(1)
    channels = len(values)
    low, high = values.amin(dim=1), values.amax(dim=1)
    plus, minus = ((values == v).any(dim=1) for v in (1, -1))
    kinds = {
        "has one symbol only": low == high,
        "has no negative symbol": (low >= 0) & (high > low),
        "has no positive symbol": (high <= 0) & (high > low),
        "never has the symbol 1": (high > 1) & ~plus,
        "never has the symbol -1": (low < -1) & ~minus,
    }
    found = {k: v.nonzero().flatten().tolist() for k, v in kinds.items()}
    faulty = int(torch.stack(list(kinds.values())).any(dim=0).sum())
    escaped = codec.escaped(plain, level)
    beyond = np.flatnonzero(escaped > ESCAPED).tolist()
    faults = []
    if 2 * faulty > channels:
        faults = [f"channels {_few(v)}: each {k}, whatever the input" for k, v in found.items() if v]
    if beyond:
        faults.append(f"channels {_few(beyond)}: more than {ESCAPED:.0%} of the symbols lie beyond the tables")
    idle = int((plain == plain[:1, :, :1, :1]).all(dim=3).all(dim=2).all(dim=0).sum())
    numbers = {
        "channels": float(channels),
        "dead_channels": float(len(found["has one symbol only"])),
        "idle_channels": float(idle),
        "faulty_channels": float(faulty),
        "escaped_share": float(escaped.mean()),
    }
    fine = f"{channels - faulty} of {channels} channels reach both signs without gaps, {idle} are idle on the pictures"
    return Finding("reach", not faults, "; ".join(faults) or fine, numbers)


def _few(channels: list[int]) -> str:
    return ", ".join(map(str, channels[:8])) + (" …" if len(channels) > 8 else "")


def rate(trips: Sequence[Trip]) -> Finding:
    """Is each file as long as the likelihoods say, within 2 % + 64 bytes?"""
    excess = [(t.file_bits - t.estimate_bits) / 8 for t in trips]
    allowed = [RATE_SHARE * t.estimate_bits / 8 + RATE_BYTES for t in trips]
    worst = max(range(len(trips)), key=lambda i: abs(excess[i]) / allowed[i])
    bad = sum(not abs(e) <= a for e, a in zip(excess, allowed, strict=True))
    t, side = trips[worst], "more" if excess[worst] > 0 else "less"
    detail = (
        f"{bad} of {len(trips)} files are off by more than 2 % + 64 bytes, and the container, checksums and a coder's last "
        f"bytes, which the estimate leaves out, take less; the worst has {t.file_bits / 8:.0f} bytes where "
        f"{t.estimate_bits / 8:.0f} were estimated (rate {t.rate:g}), {abs(excess[worst]):.0f} {side}, "
        f"{abs(excess[worst]) - allowed[worst]:.0f} beyond what is allowed"
    )
    if not bad:
        detail = (
            f"{len(trips)} files within 2 % + 64 bytes of the estimate; the worst is {excess[worst]:+.0f} bytes off"
        )
    return Finding("rate", not bad, detail, {"worst_excess_bytes": float(excess[worst]), "files_off": float(bad)})


def reconstruction(trips: Sequence[Trip]) -> Finding:
    """Does decoding a file, by another codec with the same weights, give exactly the picture that the encoder promised?"""
    bad, faults = sum(not t.same for t in trips), [t.fault for t in trips if t.fault]
    detail = f"{bad} of {len(trips)} files decode to another picture than the encoder's reconstruction"
    if faults:
        detail = f"{bad} of {len(trips)} files do not decode by their bytes and the saved weights alone ({faults[0]})"
    elif not bad:
        detail = f"{len(trips)} files decode to the encoder's reconstruction"
    return Finding("reconstruction", not bad, detail, {"files_off": float(bad)})


def latents_matter(
    codec: Codec, pictures: Sequence[Picture], maps: Sequence[Picture] | None = None, *, seed: int = 0
) -> Finding:
    """Does the squared error rise when each picture is synthesised from latents whose places were shuffled, within and
    across pictures? A decoder that ignores them, or that knows the pictures by heart, shows the same as before."""
    x, s = _batch(codec, pictures, maps, min(8, max(2, len(pictures))))
    level = x.new_full((x.shape[0],), float(codec.top_level))
    y_hat = codec.latents(x, saliency_map=s, level=level).y_hat
    n, m, h, w = y_hat.shape
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n * h * w)).to(y_hat.device)
    flat = y_hat.permute(1, 0, 2, 3).reshape(m, -1)
    shuffled = flat[:, order].reshape(m, n, h, w).permute(1, 0, 2, 3).contiguous()
    own, other = (float((codec.synthesise(v).clamp(0, 1) - x).square().mean()) for v in (y_hat, shuffled))
    flat_colour = float((x - x.mean(dim=(0, 2, 3), keepdim=True)).square().mean())
    worse = _db(other, own)
    gained = _db(flat_colour, own)
    wanted = max(COLLAPSE_DB, COLLAPSE_SHARE * gained)
    passed = worse >= wanted
    detail = (
        f"shuffled latents worsen the squared error by {worse:.1f} dB (the codec gains {gained:.1f} over one colour)"
    )
    if not passed:
        detail += f"; {wanted:.1f} dB or more were expected: the decoder hardly uses the latents"
    return Finding("latents", passed, detail, {"collapse_db": worse, "gained_db": gained})


#: findings that a codec fails which has learnt nothing yet
LEARNT = ("gradients", "reach", "latents")


def blamed(findings: Sequence[Finding]) -> list[Finding]:
    """Findings, with the likelier cause where the codec has learnt nothing yet."""
    gained = next(f.numbers["gained_db"] for f in findings if f.name == "latents")
    why = f"; the codec gains {gained:.1f} dB over one colour, so it has hardly learnt anything yet: train longer first"
    early = not gained >= LEARNT_DB
    return [f._replace(detail=f.detail + why) if early and not f.passed and f.name in LEARNT else f for f in findings]


def _db(a: float, b: float) -> float:
    return 10 * float(np.log10(max(a, 1e-12) / max(b, 1e-12)))


def gap(trained: Sequence[Trip], held_out: Sequence[Trip]) -> Finding:
    """How much worse held-out pictures fare; on record, and a fault only where it cannot be computed."""
    numbers = {}
    for name, trips in (("train", trained), ("held_out", held_out)):
        numbers[f"{name}_mse"] = float(np.mean([t.mse for t in trips]))
        numbers[f"{name}_file_bytes"] = float(np.mean([t.file_bits / 8 for t in trips]))
    numbers["error_gap_db"] = _db(numbers["held_out_mse"], numbers["train_mse"])
    detail = f"held-out pictures have {numbers['error_gap_db']:+.2f} dB of squared error against training pictures"
    return Finding("gap", bool(np.isfinite(numbers["error_gap_db"])), detail, numbers)
