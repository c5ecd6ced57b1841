"""Does a trained codec do on held-out pictures what it does on those it was trained on? And what are its pictures worth
beside classical codecs at about the same bits?

One row an experiment: means over training and over held-out pictures, the gap between them, patch KID of the held-out
reconstructions. Then rows of classical codecs at the bits of each experiment: the largest file of each picture that is
not larger than the learned one's times a factor, of the picture as it is or shrunk, whichever is nearer to it. Files are
real ones, container included; the payload (without the container) stands apart, and for generative codecs the bound that it
keeps. A few crops of each row are kept to look at.

A gap has two causes: what a codec learnt by heart, and that one part is harder to code than the other. A classical codec
at the same bits has the second one only, so what counts is the gap beyond its own. Intervals are 95 % bootstrap over runs
of neighbouring pictures, which are often frames of one drive; KIDs of two codecs are compared on the same draws.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from assets.chain import Chain
from assets.evaluation.bd_rate import BASELINE
from assets.evaluation.classical_fit import Files, Picture, at_most, decoded
from assets.evaluation.measure import Subject
from assets.evaluation.windows import salient_window
from assets.frames.encode import encode_png
from assets.graph import Progress, Waiting, silent
from assets.saliency.pairs import open_pairs
from assets.store import digest
from assets.training.watch import spread
from assets.versions import code_version
from models.bootstrap import Floats, interval, resample_counts
from models.codecs.base import Codec
from models.codecs.batch import in_order
from models.codecs.bitstream import unpack
from models.codecs.catalogue import load_codec
from models.errors import FoveaError
from models.experiments import Experiment
from models.metrics import measure
from models.perception import RESAMPLES, Perception, kid
from models.sweeps import Sweep

STAGE = "generalisation"
CLASSICAL = (
    ("bicubic", 1.0), ("avif", 1.0), ("avif", 1.5), ("avif-visual", 1.5), ("webp", 1.0), ("webp", 1.5),
)  # fmt: skip
"""Classical codecs beside each experiment, and how many times its bits they may take."""
REFERENCE = ("webp", 1.0)
"""The classical row whose gap is what the pictures themselves make of it; measured on training pictures, too."""
BLOCKS = 8
"""Of how many runs of neighbouring pictures a resample consists, about."""
SHOWN: Mapping[str, int] = {"train": 1, "held_out": 2}
"""Of how many pictures of each part a crop is kept."""
CROP_SIDE = 224
"""Side of these crops, in pixels: the window where the map is strongest."""
EACH = "each_"
"""How the columns begin that hold a list, a value a picture or a draw: kept in the store, not in the table."""
METRICS = ("bpp", "payload_bpp", "psnr_db", "ms_ssim", "sw_psnr_db", "perceptual", "lpips", "vsi", "haarpsi")


def subjects_in(chain: Chain, entry: Experiment, split: str, count: int) -> list[Subject]:
    """`count` pictures spread evenly over a split of the experiment's dataset, with the maps that condition its codec and
    those that metrics weigh with. Raises FoveaError for an empty one."""
    dataset = entry.dataset
    table, pictures, conditions = open_pairs(chain, dataset, split, maps=entry.maps, model=entry.saliency)
    if table.empty:
        raise FoveaError(
            f"dataset {dataset!r} has no {split} picture; `fovea datasets show {dataset}` lists the splits"
        )
    weighing = open_pairs(chain, dataset, split).maps or []
    return [
        Subject(str(table.image[i]), pictures[i], conditions[i] if conditions else None, weighing[i], None)
        for i in spread(len(table), count)
    ]


def held_out_split(chain: Chain, dataset: str) -> str:
    """`test` where the dataset has one, else `val`."""
    splits = set(chain.given["resized_frames", dataset].part("frames").split)
    return "test" if "test" in splits else "val"


class Shown(NamedTuple):
    """A file, what it decodes to, and how many of its bytes are no container."""

    data: bytes
    picture: Picture
    payload: float


def through(codec: Codec, subjects: Sequence[Subject], rate: float) -> list[Shown]:
    """Each picture to a file and back. Raises FoveaError when a file does not decode to the encoder's reconstruction."""
    found = []
    for subject in subjects:
        encoded = codec.encode(subject.picture, saliency_map=subject.condition, rate=rate)
        try:
            decoded = codec.decode_checked(encoded)
        except FoveaError as error:
            raise FoveaError(f"{subject.image}: {error}") from error
        found.append(Shown(encoded.data, decoded, float(sum(map(len, unpack(encoded.data).strings)))))
    return found


class Crop(NamedTuple):
    """A crop as a row shows it. codec: its own name, or `original`. part: train or held_out. bpp: of the whole picture's
    file; NaN for the original. png: the crop, lossless."""

    codec: str
    part: str
    image: str
    bpp: float
    png: bytes


class Measured(NamedTuple):
    """Columns of a row, and what is kept to look at."""

    row: dict[str, Any]
    crops: list[Crop]


def _piece(chain: Chain, inputs: Mapping[str, Any], make: Callable[[], Measured]) -> tuple[str, dict[str, Any]]:
    """Its key and a row from the store, or made and kept there."""
    key = digest(dict(inputs))
    if not chain.store.has(STAGE, key):
        made = make()
        with chain.store.writing(STAGE, key) as writer:
            writer.path("row.json").write_text(json.dumps(made.row, indent=1))
            listed = [{k: v for k, v in c._asdict().items() if k != "png"} for c in made.crops]
            writer.path("crops.json").write_text(json.dumps(listed, indent=1))
            for place, crop in enumerate(made.crops):
                writer.path(f"crop-{place}.png").write_bytes(crop.png)
    found: dict[str, Any] = json.loads(chain.store.path(STAGE, key, "row.json").read_text())
    return key, found


def kept_crops(chain: Chain, key: str) -> list[Crop]:
    """The crops of one row of the table, by its `unit`."""
    listed = json.loads(chain.store.path(STAGE, key, "crops.json").read_text())
    return [
        Crop(**entry, png=chain.store.path(STAGE, key, f"crop-{place}.png").read_bytes())
        for place, entry in enumerate(listed)
    ]


def crops_of(subjects: Sequence[Subject], part: str, codec: str, shown: Sequence[Shown], originals: bool) -> list[Crop]:
    """Crops of a part's first pictures in an even spread; originals: with what they show."""
    found = []
    count = min(SHOWN[part], len(subjects))
    for place in (round((i + 0.5) * len(subjects) / count - 0.5) for i in range(count)):
        subject, (data, reconstruction, _) = subjects[place], shown[place]
        top, left, height, width = salient_window(subject.saliency_map, CROP_SIDE)
        window = np.s_[top : top + height, left : left + width]
        if originals:
            png = encode_png(subject.picture[window], level=9)
            found.append(Crop("original", part, subject.image, math.nan, png))
        bpp = 8 * len(data) / math.prod(subject.picture.shape[:2])
        found.append(Crop(codec, part, subject.image, bpp, encode_png(reconstruction[window], level=9)))
    return found


def trained_folder(chain: Chain, key: str) -> tuple[Path, str, Mapping[str, Any], bool]:
    """The trained codec of an experiment, its unit's key and facts, and whether it is the current one; else it is the one
    made last, by a record, data or code that have changed since. Raises Waiting where there is none."""
    try:
        made = chain.made("trained_codec", key)
        return made.folder, made.unit.digest, made.facts, True
    except Waiting:
        record = chain.latest("trained_codec", key)
        if record is None or not chain.store.has("trained_codec", record["key"]):
            raise
        manifest = chain.store.manifest("trained_codec", record["key"])
        folder = chain.store.folder("trained_codec", record["key"])
        return folder, record["key"], manifest["meta"].get("facts", {}), False


class _Looks:
    """Pictures, features and networks that the rows of a table share, loaded when first asked for."""

    def __init__(self, chain: Chain, pictures: int, threads: int):
        self.chain, self.pictures, self.threads = chain, pictures, threads
        self._subjects: dict[tuple[str, ...], list[Subject]] = {}
        self._features: dict[tuple[str, str], list[Any]] = {}
        self._files: dict[tuple[str, str, str], Files] = {}

    @functools.cached_property
    def perception(self) -> Perception:
        return Perception()

    def subjects(self, entry: Experiment, split: str) -> list[Subject]:
        name = (entry.dataset, split, entry.maps, entry.saliency)
        if name not in self._subjects:
            self._subjects[name] = subjects_in(self.chain, entry, split, self.pictures)
        return self._subjects[name]

    def _values(self, subject: Subject, shown: Shown) -> dict[str, float]:
        """`METRICS` of a picture."""
        picture, pixels = subject.picture, math.prod(subject.picture.shape[:2])
        return {
            **measure(picture, shown.picture, saliency_map=subject.saliency_map),
            "bpp": 8 * len(shown.data) / pixels,
            "payload_bpp": 8 * shown.payload / pixels,
            "perceptual": self.perception.distance(picture, shown.picture),
            "lpips": self.perception.lpips_distance(picture, shown.picture),
        }

    def measured(self, entry: Experiment, split: str, shown: Sequence[Shown], name: str) -> dict[str, Any]:
        """Means and KID of a split's reconstructions, as columns that begin with `name`, and what EACH picture has."""
        subjects, features_of = self.subjects(entry, split), self.perception.patch_features
        values = pd.DataFrame([self._values(s, got) for s, got in zip(subjects, shown, strict=True)])
        place = (entry.dataset, split)
        if place not in self._features:
            self._features[place] = [features_of(s.picture) for s in subjects]
        value = kid(self._features[place], [features_of(s.picture) for s in shown], block=run_of(len(shown)))
        each = {k: values[k].tolist() for k in ("psnr_db", "perceptual")}
        return {
            f"{EACH}{name}": {**each, "kid_draws": value.draws.tolist()},
            **{f"{name}_{k}": float(values[k].mean()) for k in METRICS},
            f"{name}_pictures": len(shown),
            f"{name}_kid": value.value,
            f"{name}_kid_low": value.low,
            f"{name}_kid_high": value.high,
        }

    def learned(self, entry: Experiment, rate: float, folder: Path, split: str) -> Measured:
        """A trained codec on both parts. `each_*_bytes`: of each file."""
        codec = load_codec(folder / "codec")
        bound = getattr(codec, "payload_bound", None)
        sides = [s.picture.shape[:2] for s in self.subjects(entry, split)]
        bounds = [bound(*hw) / math.prod(hw) for hw in sides] if bound else [math.nan]
        row: dict[str, Any] = {"bound_bpp": float(np.mean(bounds))}
        crops: list[Crop] = []
        for name, which in (("train", "train"), ("held_out", split)):
            subjects = self.subjects(entry, which)
            shown = through(codec, subjects, rate)
            row |= self.measured(entry, which, shown, name)
            row[f"{EACH}{name}_bytes"] = [len(data) for data, _, _ in shown]
            crops += crops_of(subjects, name, entry.codec, shown, originals=True)
        return Measured(row, crops)

    def classical(
        self,
        entry: Experiment,
        splits: Mapping[str, str],
        name: str,
        factor: float,
        budgets: Mapping[str, Any],
    ) -> Measured:
        """A classical codec at `factor` times these bytes, picture by picture. splits: by part; budgets: likewise."""
        row: dict[str, Any] = {}
        crops: list[Crop] = []
        for which, split in splits.items():
            subjects = self.subjects(entry, split)
            allowed = [factor * budget for budget in budgets[which]]
            made = [self._files.setdefault((entry.dataset, name, s.image), {}) for s in subjects]
            work = zip([s.picture for s in subjects], allowed, made, strict=True)
            files = list(in_order(lambda w: at_most(name, *w), work, threads=self.threads))
            both = zip(files, subjects, strict=True)
            shown = [Shown(f.data, decoded(name, f, s.picture), float(len(f.data))) for f, s in both]
            row |= self.measured(entry, split, shown, which)
            if which == "held_out":
                row["over_budget"] = sum(len(f.data) > b for f, b in zip(files, allowed, strict=True))
                row["shrunk_pictures"] = sum(f.shrunk > 1 for f in files)
                crops = crops_of(subjects, which, name, shown, originals=False)
        return Measured(row, crops)


def generalisation(
    chain: Chain,
    sweep: Sweep,
    *,
    pictures: int = 48,
    against: bool = True,
    threads: int = 1,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The table; see the module. `unit` is what `kept_crops` asks for. pictures: of each part at most. against: with the classical rows.
    threads: classical files at once.

    An experiment that is not trained is left out. What was measured before is read, not measured again.
    """
    code = code_version("assets.evaluation.generalisation")
    looks = _Looks(chain, pictures, threads)
    rows: list[dict[str, Any]] = []
    for place, entry in enumerate(sweep.experiments):
        try:
            folder, trained, facts, current = trained_folder(chain, entry.key)
        except Waiting:
            continue
        progress(place, len(sweep.experiments), entry.key)
        split = held_out_split(chain, entry.dataset)
        frames = chain.given["saliency_maps", entry.dataset].part("maps").sort_values(["split", "image"])
        data = {
            "dataset": entry.dataset,
            "split": split,
            "pictures": pictures,
            "frames": digest(frames[["split", "image", "map_key"]].to_dict("list")),
            "code": code,
        }
        for rate in entry.rates:
            head = {
                "dataset": entry.dataset,
                "experiment": entry.key,
                "codec": entry.codec,
                "arm": entry.label,
                "variant": entry.variant,
                "rate_name": entry.rate_name,
                "rate": rate,
                "factor": math.nan,
                "doctor": str(facts.get("doctor", "")),
                "of": ", ".join(p for p in (f"{rate:g}", *_named(entry), "" if current else "stale") if p),
            }
            piece = {**data, "trained": trained, "maps": [entry.maps, entry.saliency], "rate": rate}
            key, row = _piece(chain, piece, functools.partial(looks.learned, entry, rate, folder, split))
            group: list[Compared] = [(None, {**head, "unit": key}, row)]
            for which in CLASSICAL if against else ():
                splits = {"train": "train", "held_out": split} if which == REFERENCE else {"held_out": split}
                asked = {part: row[f"{EACH}{part}_bytes"] for part in splits}
                named = {"codec": which[0], "factor": which[1]}
                make = functools.partial(looks.classical, entry, splits, *which, asked)
                key, beside = _piece(chain, {**data, "splits": splits, "budgets": asked, **named}, make)
                blank = {"arm": "classical", "variant": "", "doctor": ""}
                group.append((which, {**head, **blank, **named, "unit": key}, beside))
            rows += _compared(group)
    return pd.DataFrame(rows)


Compared = tuple[tuple[str, float] | None, dict[str, Any], dict[str, Any]]
"""Which classical codec at which factor, or None for the learned one; the first columns; what was measured."""


def _compared(group: Sequence[Compared]) -> list[dict[str, Any]]:
    """Rows of the table from a learned codec and the classical ones beside it."""
    learned = group[0][2]
    reference = next((row for which, _, row in group if which == REFERENCE), None)
    rows = []
    for which, head, row in group:
        compared = gaps(row, reference) if which is None else kid_difference(learned, row)
        flat = {k: v for k, v in row.items() if not k.startswith(EACH)}
        rows.append({**head, **flat, **compared})
    return rows


def _named(entry: Experiment) -> tuple[str, str]:
    """What tells an experiment from others at its rate; nothing for the plain one."""
    variant = ",".join(part for part in entry.variant.split(",") if part != "scratch")
    return "" if entry.label == BASELINE else entry.label, variant


def run_of(pictures: int) -> int:
    """How many neighbouring pictures are drawn together in a bootstrap."""
    return max(1, pictures // BLOCKS)


def gaps(row: Mapping[str, Any], reference: Mapping[str, Any] | None = None) -> dict[str, float]:
    """How much held-out pictures lose against training pictures: decibels of PSNR, percent of perceptual distance, with
    `_low` and `_high`; `beyond`: how much more than with the classical codec `reference`.

    row, reference: what `_Looks.measured` gives for `train` and `held_out`.
    """
    shares = {}
    for part, seed in (("train", 0), ("held_out", 1)):
        n = len(row[f"{EACH}{part}"]["psnr_db"])
        # first the pictures themselves, then the resamples
        shares[part] = np.vstack([np.ones(n), resample_counts(n, RESAMPLES, seed, block=run_of(n))]) / n

    def gap(one: Mapping[str, Any]) -> tuple[Floats, Floats]:
        psnr, distance = (
            [shares[part] @ np.asarray(one[f"{EACH}{part}"][name]) for part in ("train", "held_out")]
            for name in ("psnr_db", "perceptual")
        )
        return psnr[0] - psnr[1], distance[1] / distance[0]

    psnr, ratio = gap(row)
    values = {"psnr_gap_db": psnr, "perceptual_gap_percent": 100 * (ratio - 1)}
    if reference is not None:
        psnr_there, ratio_there = gap(reference)
        values["psnr_gap_beyond_db"] = psnr - psnr_there
        values["perceptual_gap_beyond_percent"] = 100 * (ratio / ratio_there - 1)
    found: dict[str, float] = {}
    for name, drawn in values.items():
        low, high = interval(drawn[1:])
        found |= {name: float(drawn[0]), f"{name}_low": low, f"{name}_high": high}
    return found


def kid_difference(learned: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, float]:
    """The learned codec's KID less that of another row, with its paired interval; below 0 the learned one's is the lower."""
    one, other = (np.asarray(r[f"{EACH}held_out"]["kid_draws"], np.float64) for r in (learned, row))
    low, high = interval(one - other)
    value = learned["held_out_kid"] - row["held_out_kid"]
    return {"kid_difference": value, "kid_difference_low": low, "kid_difference_high": high}
