"""What measuring reads and what it leaves: pictures with their maps, tables of points, pieces of a sweep."""

import hashlib
from typing import Any

import pandas as pd

from assets.chain import Chain, Made, Progress, Waiting, evaluation_key
from assets.evaluation.checkpoints import externals
from assets.frames.stages import source_table
from assets.saliency.condition import condition_maps, fixation_maps
from assets.saliency.names import fixations_digest
from assets.saliency.stages import ensure_maps, map_keys
from assets.store import digest
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY
from models.sweeps import Sweep

POINTS = "points.parquet"
GALLERY_PICTURES = 3
#: what draws fixation maps and chooses the map that conditions a codec
MAPS_CODE = ("assets.saliency.condition", "assets.saliency.fixations")


def measured_split(chain: Chain, dataset: str) -> str:
    """The split that codecs are measured on."""
    return str(chain.dataset(dataset).evaluation_split(source_table(chain, dataset)))


def measured_table(chain: Chain, dataset: str, model: str = DEFAULT_SALIENCY) -> pd.DataFrame:
    """Frames and map keys of the measured split."""
    table = map_keys(chain, dataset, model)
    return table[table.split == measured_split(chain, dataset)].sort_values("image").reset_index(drop=True)


def gallery_images(table: pd.DataFrame) -> list[str]:
    """The pictures that the report shows: chosen by a hash of the name, the same for every codec."""
    ranked = sorted(table.image, key=lambda name: hashlib.sha256(str(name).encode()).hexdigest())
    return [str(name) for name in ranked[:GALLERY_PICTURES]]


def kept_name(image: str, codec: str, point: float) -> str:
    """Where a reconstruction lies in its unit; codec is "" when the unit has one only."""
    return f"kept/{digest([image, codec])[:16]}-{point!r}.png"


def subjects_of(chain: Chain, dataset: str, maps: str, model: str, progress: Progress) -> list[Any]:
    """The measured pictures with the map that conditions the encoder and the maps that metrics weigh with."""
    from assets.evaluation.measure import Subject

    measuring, _, _ = ensure_maps(chain, dataset, DEFAULT_SALIENCY, progress)
    del measuring
    table = measured_table(chain, dataset)
    if table.empty:
        raise FoveaError(f"dataset {dataset!r} has no usable picture to measure on")
    pictures = [chain.store.array("resized_frames", k) for k in table.key]
    weighing = [chain.store.array("saliency_maps", k) for k in table.map_key]
    if maps in ("predicted", "shuffled") and model != DEFAULT_SALIENCY:
        ensure_maps(chain, dataset, model, progress)
        conditions = condition_maps(chain, dataset, measured_table(chain, dataset, model), pictures, maps)
    else:
        conditions = condition_maps(chain, dataset, table, pictures, maps)
    eyes = fixation_maps(chain, dataset, table, pictures)
    return [
        Subject(str(image), pictures[i], None if conditions is None else conditions[i], weighing[i], eyes[i])
        for i, image in enumerate(table.image)
    ]


def data_digest(chain: Chain, dataset: str, model: str = DEFAULT_SALIENCY) -> str:
    """Digest of everything that measuring on a dataset reads."""
    rows = [
        measured_table(chain, dataset, m)[["image", "key", "map_key"]].to_numpy().tolist()
        for m in dict.fromkeys((DEFAULT_SALIENCY, model))
    ]
    return digest([rows, fixations_digest(chain, dataset)])


def finish_points(
    rows: list[dict[str, Any]],
    *,
    dataset: str,
    split: str,
    train_dataset: str,
    arm: str,
    maps: str,
    preset: str,
    experiment: str,
    run_id: str,
    seed: int = 0,
    codec: str = "",
    rate_name: str = "",
    variant: str = "",
) -> pd.DataFrame:
    """Rows with the columns of rd_points, in its order and types."""
    from assets.evaluation.rate_distortion import concat_points

    table = pd.DataFrame(rows)
    if codec:
        table["codec"] = codec
    if rate_name:
        table["rate_name"] = rate_name
    table = table.assign(
        dataset=dataset,
        split=split,
        train_dataset=train_dataset,
        arm=arm,
        maps=maps,
        preset=preset,
        variant=variant,
        seed=seed,
        experiment=experiment,
        mlflow_run_id=run_id,
    )
    return concat_points([table])


#: share of the files that may be smaller than their estimate by more than the tolerance
SMALLER_SHARE = 0.02


def check_estimate(points: pd.DataFrame, partition: str) -> int:
    """How many files are smaller than their estimate by more than 2 % + 64 bytes.

    Raises FoveaError when a file is larger by as much, or more than one in fifty is smaller: such a codec is not
    compared (science.md). Single smaller files are no fault: on a picture unlike those of the training, symbols far in
    the tails leave their tables, and are escaped for less than the 30 bits at which CompressAI bounds a likelihood.
    """
    estimate = points.bpp_estimate * points.width * points.height / 8
    over = (points.bytes - estimate).abs() - (0.02 * estimate + 64)
    smaller = (over > 0) & (points.bytes < estimate)
    wrong = over > 0 if smaller.mean() > SMALLER_SHARE else (over > 0) & ~smaller
    if wrong.any():
        worst = points.iloc[int(over.where(wrong).to_numpy(dtype=float, na_value=float("-inf")).argmax())]
        raise FoveaError(
            f"{partition}: {int(wrong.sum())} of {len(points)} files are more than 2 % + 64 bytes off their estimate, the "
            f"worst is {worst.image} with {worst.bytes} bytes; the entropy model's quantiles were not solved, or its tables are wrong"
        )
    return int(smaller.sum())


def pieces_of(chain: Chain, sweep: Sweep) -> tuple[list[Made], list[str]]:
    """What has been measured of a sweep, classical codecs first, checkpoints from elsewhere last, and the partitions
    that are missing."""
    wanted = [
        ("classical_rd_points", d)
        for d in dict.fromkeys([sweep.dataset, *(d for e in sweep.experiments for d in e.evaluate_on)])
    ]
    wanted += [("rd_points", evaluation_key(e.key, d)) for e in sweep.experiments for d in e.evaluate_on]
    wanted += [
        ("external_rd_points", e.partition)
        for d in dict.fromkeys(d for s, d in wanted if s == "classical_rd_points")
        for e in externals(chain.home.config, d)
    ]
    found, missing = [], []
    for stage, partition in wanted:
        try:
            found.append(chain.made(stage, partition))
        except Waiting:
            missing.append(partition)
    return found, missing


def sweep_points(chain: Chain, sweep: Sweep) -> pd.DataFrame:
    """All measured rows of a sweep."""
    from assets.evaluation.rate_distortion import concat_points

    found, _ = pieces_of(chain, sweep)
    return concat_points([pd.read_parquet(m.folder / POINTS) for m in found])
