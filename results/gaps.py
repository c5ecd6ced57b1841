"""What a generative codec learnt by heart, and what its pictures are worth beside classical codecs at about the same bits: the
tables of results/gan_camvid.md.

    python results/gaps.py camvid.gan [--no-classical]

A row a trained experiment and rate, from real files that are decoded again: means over up to 48 pictures of the training part
and of the held-out part (test, else val), the gap between them, patch KID of the held-out reconstructions. Then a row for each
classical codec: its largest file of each picture within so many times the learned one's bytes, of the picture as it is or
shrunk, whichever is nearer to it.

A gap has two causes: what a codec learnt by heart, and that one part is harder to code. A classical codec at the same bits has
the second one only, so what counts is the gap beyond WebP's. Intervals are 95 % bootstrap over runs of neighbouring pictures,
which are often frames of one drive; KIDs of two codecs are compared on the same draws.
"""

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd

from assets.chain import Chain
from assets.evaluation.measure import Picture, Subject
from assets.evaluation.pieces import sweep_of
from assets.graph import Waiting
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from assets.training.watch import spread
from models.bootstrap import Floats, interval, resample_counts
from models.codecs import classical
from models.codecs.base import Codec
from models.codecs.batch import in_order
from models.codecs.bitstream import unpack
from models.codecs.catalogue import load_codec
from models.experiments import Experiment
from models.metrics import measure
from models.perception import RESAMPLES, Kid, Perception, kid
from models.sweeps import Sweep
from pipelines.terminal import script

REFERENCE = ("webp", 1.0)  # measured on training pictures, too
CLASSICAL = (("bicubic", 1.0), ("avif", 1.0), ("avif", 1.5), ("avif-visual", 1.5), REFERENCE, ("webp", 1.5))
PICTURES = 48  # of each part, at most
BLOCKS = 8  # of how many runs of neighbouring pictures a resample consists, about
SHOWN = ("bpp", "payload_bpp", "psnr_db", "perceptual", "sw_psnr_db", "vsi", "haarpsi")


class Shown(NamedTuple):
    """What a file decodes to. payload: its bytes without the container; shrunk: by what the sides were divided before."""

    data: bytes
    payload: int
    picture: Picture
    shrunk: int = 1


class Seen(NamedTuple):
    """A row a picture, and the KID of all."""

    values: pd.DataFrame
    kid: Kid


def subjects_in(chain: Chain, entry: Experiment, split: str, count: int) -> list[Subject]:
    """Pictures spread evenly over a split, with the maps that condition the codec and those that metrics weigh with."""
    table, pictures, conditions = open_pairs(chain, entry.dataset, split, maps=entry.maps)
    weighing = open_pairs(chain, entry.dataset, split).maps or []
    return [
        Subject(str(table.image[i]), pictures[i], conditions[i] if conditions else None, weighing[i], None)
        for i in spread(len(table), count)
    ]


def through(codec: Codec, subjects: Sequence[Subject], rate: float) -> list[Shown]:
    """Each picture to a file and back."""
    files = [codec.encode(s.picture, saliency_map=s.condition, rate=rate) for s in subjects]
    return [Shown(f.data, sum(map(len, unpack(f.data).strings)), codec.decode_checked(f)) for f in files]


def at_most(codec: str, picture: Picture, budget: float) -> Shown:
    """A classical codec's largest file of at most `budget` bytes, of the picture or of a half or a quarter of its sides, as one
    would for few bits; of these the one that shows it with the least squared error. The smallest of all where none fits."""
    height, width = picture.shape[:2]
    found = []
    for divisor in (1,) if codec == "bicubic" else (1, 2, 4):
        small = cv2.resize(picture, (-(-width // divisor), -(-height // divisor)), interpolation=cv2.INTER_AREA)
        encoded = functools.cache(lambda q, of=small: classical.encode(codec, float(q), of))
        # budgets are small, and AVIF takes seconds for a high quality: doubling from below never goes far beyond what fits
        beyond = next((q for q in (1, 2, 4, 8, 16, 32, 64) if len(encoded(q)) > budget), 101)
        quality = bisect.bisect_right(range(1, beyond), budget, key=lambda q, of=encoded: len(of(q)))
        data = encoded(max(quality, 1))
        shown = cv2.resize(classical.decode(codec, data), (width, height), interpolation=cv2.INTER_CUBIC)
        found.append(Shown(data, len(data), shown, divisor))
    fitting = [s for s in found if len(s.data) <= budget]
    if not fitting:
        return min(found, key=lambda s: len(s.data))
    return min(fitting, key=lambda s: np.square(s.picture.astype(np.float32) - picture).mean())


def run_of(pictures: int) -> int:
    """How many neighbouring pictures are drawn together in a bootstrap."""
    return max(1, pictures // BLOCKS)


def look(eye: Perception, subjects: Sequence[Subject], shown: Sequence[Shown]) -> Seen:
    """All metrics of each picture, and KID."""
    rows = [
        {
            **measure(subject.picture, got.picture, saliency_map=subject.saliency_map),
            "bpp": 8 * len(got.data) / math.prod(subject.picture.shape[:2]),
            "payload_bpp": 8 * got.payload / math.prod(subject.picture.shape[:2]),
            "perceptual": eye.distance(subject.picture, got.picture),
        }
        for subject, got in zip(subjects, shown, strict=True)
    ]
    originals, reconstructions = ([eye.patch_features(s.picture) for s in group] for group in (subjects, shown))
    return Seen(pd.DataFrame(rows), kid(originals, reconstructions, block=run_of(len(rows))))


def gaps(own: Mapping[str, Seen], webp: Mapping[str, Seen]) -> dict[str, float]:
    """What held-out pictures lose against training pictures: decibels of PSNR, per cent of perceptual distance, with `_low` and
    `_high`; and how much more than with the classical codec, where that was measured."""

    def gap(parts: Mapping[str, Seen]) -> tuple[Floats, Floats]:
        drawn = []
        for seed, part in enumerate(("train", "held_out")):
            values = parts[part].values[["psnr_db", "perceptual"]].to_numpy(np.float64)
            n = len(values)
            # first the pictures themselves, then the resamples
            drawn.append(np.vstack([np.ones(n), resample_counts(n, RESAMPLES, seed, block=run_of(n))]) @ values / n)
        return drawn[0][:, 0] - drawn[1][:, 0], drawn[1][:, 1] / drawn[0][:, 1]

    psnr, ratio = gap(own)
    values = {"psnr_gap_db": psnr, "perceptual_gap_percent": 100 * (ratio - 1)}
    if webp:
        psnr_there, ratio_there = gap(webp)
        values |= {"psnr_beyond_db": psnr - psnr_there, "perceptual_beyond_percent": 100 * (ratio / ratio_there - 1)}
    found: dict[str, float] = {}
    for name, drawn in values.items():
        low, high = interval(drawn[1:])
        found |= {name: float(drawn[0]), f"{name}_low": low, f"{name}_high": high}
    return found


def kid_difference(learned: Kid, other: Kid) -> dict[str, float]:
    """The learned codec's KID less another's, with its paired interval; below 0 the learned one's is the lower."""
    low, high = interval(learned.draws - other.draws)
    return {"kid_difference": learned.value - other.value, "kid_difference_low": low, "kid_difference_high": high}


def means(parts: Mapping[str, Seen]) -> dict[str, float]:
    """Of each part's pictures, and the held-out KID."""
    found = parts["held_out"].kid
    named = {"kid": found.value, "kid_low": found.low, "kid_high": found.high}
    return {f"{part}_{name}": float(seen.values[name].mean()) for part, seen in parts.items() for name in SHOWN} | named


def beside(
    eye: Perception,
    subjects: Mapping[str, Sequence[Subject]],
    files: Mapping[str, Sequence[Shown]],
    which: tuple[str, float],
    threads: int,
) -> tuple[dict[str, Any], dict[str, Seen]]:
    """A classical codec at so many times the bytes of these files: what its row says of it, and what was seen of each part."""
    codec, factor = which
    found, row = {}, {"codec": codec}
    for part in ("train", "held_out") if which == REFERENCE else ("held_out",):
        work = zip(subjects[part], files[part], strict=True)
        made = list(in_order(lambda w: at_most(codec, w[0].picture, factor * len(w[1].data)), work, threads=threads))
        found[part] = look(eye, subjects[part], made)
        over = sum(len(m.data) > factor * len(f.data) for m, f in zip(made, files[part], strict=True))
        row["at"] = f"{factor:g} × the bits, {sum(m.shrunk > 1 for m in made)} of {len(made)} shrunk, {over} above"
    return row, found


def measured(
    chain: Chain, sweep: Sweep, against: Sequence[tuple[str, float]] = CLASSICAL, pictures: int = PICTURES
) -> pd.DataFrame:
    """The table of a sweep; an experiment that is not trained is left out. against: classical codecs, and how many times the
    learned one's bytes they may take."""
    eye, rows = Perception(), list[dict[str, Any]]()
    for entry in sweep.experiments:
        try:
            made = chain.made("trained_codec", entry.key)
        except Waiting:
            continue
        codec = load_codec(made.folder / "codec")
        splits = set(chain.given["resized_frames", entry.dataset].part("frames").split)
        parts = {"train": "train", "held_out": "test" if "test" in splits else "val"}
        subjects = {part: subjects_in(chain, entry, split, pictures) for part, split in parts.items()}
        for rate in entry.rates:
            files = {part: through(codec, of, rate) for part, of in subjects.items()}
            own = {part: look(eye, of, files[part]) for part, of in subjects.items()}
            row = {"codec": entry.codec, "at": f"{rate:g}, {entry.label} {entry.variant}", **means(own)}
            if bound := getattr(codec, "payload_bound", None):
                sides = [s.picture.shape[:2] for s in subjects["held_out"]]
                row["bound_bpp"] = float(np.mean([bound(*hw) / math.prod(hw) for hw in sides]))
            others, webp = [], dict[str, Seen]()
            for which in against:
                other, seen = beside(eye, subjects, files, which, chain.threads)
                others.append({**other, **means(seen), **kid_difference(own["held_out"].kid, seen["held_out"].kid)})
                webp = seen if which == REFERENCE else webp
            rows += [{**row, "doctor": made.facts.get("doctor", ""), **gaps(own, webp)}, *others]
    return pd.DataFrame(rows)


def main(key: str, *options: str) -> None:
    """Print the table of a sweep, a column a codec."""
    chain = open_chain()
    table = measured(chain, sweep_of(chain.world, key), () if "--no-classical" in options else CLASSICAL)
    print(table.set_index(["codec", "at"]).T.to_string(na_rep=""))


if __name__ == "__main__":
    script(main, __doc__)
