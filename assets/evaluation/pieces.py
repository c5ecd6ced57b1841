"""What measuring reads and what it leaves: pictures with their maps, tables of points, pieces of a sweep."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.chain import Chain
from assets.graph import Artifact, Given, Need
from assets.saliency.names import picture_needs
from assets.store import digest
from assets.world import World, evaluation_key
from models.errors import FoveaError
from models.sweeps import Sweep

if TYPE_CHECKING:
    import pandas as pd

    from assets.evaluation.measure import Subject
    from assets.saliency.pairs import Reader

POINTS = "points.parquet"
#: rows of reconstructions that are kept without being points of a curve
SHOWN = "shown.parquet"
#: columns of points whose means are shown of a run
MEANS = ["bpp", "psnr_db", "ms_ssim", "sw_psnr_db"]
GALLERY_PICTURES = 3
#: stages whose artifacts are tables of points, in the order in which they are put together
PIECES = ("classical_rd_points", "rd_points", "external_rd_points")
#: the version of the pictures that are measured, among a unit's inputs
MEASURED = "rgba_frames measured pairs"
#: what looks at points, or puts them together, without a part in measuring
LOOKS_ON = (
    "assets.evaluation.checkpoints",
    "assets.evaluation.checks",
    "assets.evaluation.rate_distortion",
    "assets.saliency.names",
)


def measured_needs(dataset: str) -> tuple[Need, ...]:
    """What measuring a codec on a dataset needs: whatever conditions it, maps weigh the metrics."""
    return picture_needs(dataset, "predicted", ("measured",))


def measured_split(given: Given, world: World, dataset: str) -> str:
    """The split that codecs are measured on."""
    return str(world.dataset(dataset).evaluation_split(given["source_frames", dataset].part("files")))


def gallery_images(images: "Sequence[str] | pd.Series[str]") -> list[str]:
    """The pictures that the report shows: chosen by a hash of the name, the same for every codec."""
    ranked = sorted(images, key=lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    return [str(name) for name in ranked[:GALLERY_PICTURES]]


def kept_name(image: str, codec: str, point: float) -> str:
    """Where a reconstruction lies in its unit; codec is "" when the unit has one only."""
    return f"kept/{digest([image, codec])[:16]}-{point!r}.png"


def measured_table(reader: "Reader", dataset: str) -> "pd.DataFrame":
    """Rows of the measured pictures, by image."""
    table: pd.DataFrame = reader.given["rgba_frames", dataset].part("measured pairs")
    return table


def subjects_of(reader: "Reader", dataset: str, maps: str) -> list["Subject"]:
    """The measured pictures with the map that conditions the encoder and the maps that metrics weigh with."""
    from assets.evaluation.measure import Subject
    from assets.saliency.condition import condition_maps
    from assets.saliency.fixations import frame_fixation_maps
    from assets.saliency.pairs import open_pairs

    seen, record = open_pairs(reader, dataset, "measured"), reader.world.dataset(dataset)
    if seen.table.empty or seen.maps is None:
        raise FoveaError(f"dataset {dataset!r} has no usable picture to measure on")
    conditions = condition_maps(record, seen.table, seen.pictures, seen.maps, maps)
    eyes = frame_fixation_maps(record, seen.table, [p.shape[:2] for p in seen.pictures])
    return [
        Subject(str(image), picture, conditions[i] if conditions else None, seen.maps[i], eyes[i])
        for i, (image, picture) in enumerate(zip(seen.table.image, seen.pictures, strict=True))
    ]


def finish_points(rows: Sequence[Mapping[str, Any]], **shared: Any) -> "pd.DataFrame":
    """Rows with the columns of rd_points, in its order and types. shared: columns that are the same in all rows."""
    import pandas as pd

    from assets.evaluation.rate_distortion import concat_points

    return concat_points([pd.DataFrame(rows).assign(**{"maps": "none", "seed": 0, **shared})])


def finite_means(table: "pd.DataFrame") -> dict[str, float]:
    """The columns' means as metrics of a run, without those that are not known."""
    return {str(k): float(v) for k, v in table.mean().items() if math.isfinite(v)}


def headline(means: Mapping[str, float]) -> dict[str, float]:
    """What a row of a table says of a measurement: rate and qualities, rounded."""
    return {k: round(means[k], 4) for k in (*MEANS, "ew_psnr_db") if k in means}


#: share of the files that may be smaller than their estimate by more than the tolerance
SMALLER_SHARE = 0.02


def check_estimate(points: "pd.DataFrame", partition: str) -> int:
    """How many files are smaller than their estimate by more than 2 % + 64 bytes.

    Raises FoveaError when a file is larger by as much, or more than one in fifty is smaller: such a codec is not
    compared. Single smaller files are no fault: on a picture unlike those of the training, symbols far in
    the tails leave their tables, and are escaped for less than the 30 bits at which CompressAI bounds a likelihood.
    """
    estimate = points.bpp_estimate * points.width * points.height / 8
    over = (points.bytes - estimate).abs() - (0.02 * estimate + 64)
    smaller = (over > 0) & (points.bytes < estimate)
    over = over.fillna(math.inf)  # an estimate that is no number
    wrong = over > 0 if smaller.mean() > SMALLER_SHARE else (over > 0) & ~smaller
    if wrong.any():
        worst = points.iloc[int(over.where(wrong).to_numpy(dtype=float, na_value=float("-inf")).argmax())]
        raise FoveaError(
            f"{partition}: {int(wrong.sum())} of {len(points)} files are more than 2 % + 64 bytes off their estimate, the "
            f"worst is {worst.image} with {worst.bytes} bytes; the entropy model's quantiles were not solved, or its tables are wrong"
        )
    return int(smaller.sum())


def measured_on(sweep: Sweep) -> list[str]:
    """The datasets that a sweep is measured on, its own first."""
    return list(dict.fromkeys([sweep.dataset, *(d for e in sweep.experiments for d in e.evaluate_on)]))


def piece_needs(world: World, sweep: Sweep) -> list[Need]:
    """Everything that may be measured of a sweep: classical codecs first, checkpoints from elsewhere last."""
    from assets.evaluation.checkpoints import externals

    datasets = measured_on(sweep)
    keys = [evaluation_key(e.key, d) for e in sweep.experiments for d in e.evaluate_on]
    others = [e.partition for d in datasets for e in externals(world.home.config, d)]
    found = zip(PIECES, (datasets, keys, others), strict=True)
    return [Need(stage, partition, optional=True) for stage, names in found for partition in names]


def pieces_of(given: Given) -> tuple[list[Artifact], list[str]]:
    """What has been measured of a sweep, and the partitions that are missing."""
    found = [piece for stage in PIECES for piece in given.all(stage)]
    there = {(piece.stage, piece.partition) for piece in found}
    wanted = [n for n in given.needs or () if n.stage in PIECES]
    return found, [n.partition for n in wanted if (n.stage, n.partition) not in there]


def points_of(given: Given) -> "pd.DataFrame":
    """All measured rows of a sweep."""

    from assets.evaluation.rate_distortion import concat_points

    return concat_points([piece.table(POINTS) for piece in pieces_of(given)[0]])


def sweep_points(chain: Chain, sweep: Sweep) -> "pd.DataFrame":
    """All measured rows of a sweep, for readers who make no artifact."""
    return points_of(chain.view("rd_curves", sweep.key).given)


def sweep_of(world: World, partition: str) -> Sweep:
    """The sweep of a partition. Raises FoveaError for an unknown one."""
    return world.sweep(partition)
