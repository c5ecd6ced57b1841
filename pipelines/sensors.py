"""The sensor that notices pictures: a registered folder whose files changed gets its frame stages run."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import dagster as dg

from assets.datasets import Dataset
from assets.frames.folder import find_pictures
from assets.stages import open_chain
from models.errors import FoveaError
from pipelines.assets import JOBS
from pipelines.partitions import axis
from pipelines.plan import stale

DATASET, STATE = "fovea/dataset", "fovea/state"
#: seconds after which the same state is tried again; and after which a run that never ended counts as lost
AGAIN_S, LOST_S = 3600.0, 86400.0


def folder_state(dataset: Dataset, root: Path) -> str:
    """Digest over what is registered, and over names, sizes and times of the files; costs one look at each."""
    found = hashlib.sha256(repr(dataset).encode())
    table = [dataset.splits.csv] if dataset.splits.csv else []
    folders = [root, *([dataset.maps] if dataset.maps and dataset.maps.is_dir() else [])]
    for path in [*(folder / name for folder in folders for name in find_pictures(folder)), *table]:
        with contextlib.suppress(OSError):  # gone meanwhile, or a link to nothing
            seen = path.stat()
            found.update(os.fsencode(f"{path}|{seen.st_size}|{seen.st_ctime_ns}\n"))
    return found.hexdigest()[:32]


def last_run(instance: dg.DagsterInstance, name: str, state: str) -> tuple[str, str]:
    """The id of the last run that was asked for a dataset, "" for none; and why none is asked for now, "" where one may be."""
    for last in instance.get_run_records(dg.RunsFilter(tags={DATASET: name}), limit=1):
        run, wait_s, why = last.dagster_run, 0.0, ""
        if not run.is_finished:
            wait_s, why = LOST_S, "is under way"
        elif run.tags.get(STATE) == state:
            wait_s, why = AGAIN_S, "had these pictures; if it left anything stale, that is tried again an hour after it"
        waits = time.time() - last.create_timestamp.timestamp() < wait_s
        return run.run_id, f"{name}: run {run.run_id[:8]} {why}" if waits else ""
    return "", ""


@dg.sensor(
    job=JOBS["frames"],
    minimum_interval_seconds=30,
    description="Looks at every registered folder each half minute, and makes its frames and maps anew when pictures were added, "
    "changed or removed. On, it costs a look at each file's size and time; then seconds a hundred pictures. No codec is trained. "
    "One run at a time for each dataset. What a run left stale, a failed one say, is tried again an hour later, and at once when "
    "the pictures or the dataset's settings change.",
)
def new_pictures(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One run a dataset whose folder or table changed and whose frames are stale, or unknown to Dagster. The cursor keeps the state of each that had
    nothing stale; Dagster's runs say what was asked for."""
    seen: dict[str, str] = json.loads(context.cursor or "{}")
    fresh: dict[str, str] = {}
    waits: list[str] = []
    requests = []
    chain = open_chain()
    told = context.instance.get_materialized_partitions(dg.AssetKey("rgba_frames"))
    for name, dataset in chain.world.registry.items():
        if dataset.kind != "folder" or dataset.path is None or not Path(dataset.path).is_dir():
            continue
        try:
            state = folder_state(dataset, Path(dataset.path))
            before, why = ("", "") if seen.get(name) == state else last_run(context.instance, name, state)
            well = name in told and not why and not stale(chain, chain.upstream(("rgba_frames", name)))
            if seen.get(name) == state or well:
                fresh[name] = state
                continue
        except FoveaError as error:
            why = str(error)
        if why:
            waits.append(why)
            continue
        tags = {DATASET: name, STATE: state}
        # Dagster passes over a key that it had: a state that is tried again gets another one
        requests.append(dg.RunRequest(run_key=f"{name}-{state}-{before[:8]}", partition_key=name, tags=tags))
    if not requests and fresh == seen:
        none = "no registered folder changed" if fresh else "no folder is registered (fovea datasets add NAME PATH)"
        return dg.SkipReason("; ".join(waits) or none)
    rows = [axis("source_frames").build_add_request([str(r.partition_key) for r in requests])]
    return dg.SensorResult(
        run_requests=requests, cursor=json.dumps(fresh, sort_keys=True), dynamic_partitions_requests=rows
    )
