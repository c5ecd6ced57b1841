"""The sensor that notices pictures: a registered folder whose files changed gets its frame stages run."""

import hashlib
import json
import os
from pathlib import Path

import dagster as dg

from pipelines.assets import JOBS
from pipelines.partitions import axis


def folder_state(folder: Path) -> str:
    """Digest over names, sizes and times of all files below a folder; costs one look at each entry."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            seen = path.stat()
            found.update(os.fsencode(f"{path.relative_to(folder)}|{seen.st_size}|{seen.st_ctime_ns}\n"))
    return found.hexdigest()[:32]


@dg.sensor(
    job=JOBS["frames"],
    minimum_interval_seconds=30,
    description="Looks at every registered folder each half minute, and makes its frames and maps anew when pictures were added, "
    "changed or removed. On, it costs a look at each file's size and time; then seconds a hundred pictures. No codec is trained.",
)
def new_pictures(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One run a dataset whose folder changed and whose frames are stale; the cursor keeps each folder's last state."""
    from assets.stages import open_chain
    from pipelines.plan import dataset_targets, stale

    seen: dict[str, str] = json.loads(context.cursor or "{}")
    state: dict[str, str] = {}
    requests = []
    chain = open_chain()
    for name, dataset in chain.world.registry.items():
        if dataset.kind != "folder" or dataset.path is None or not Path(dataset.path).is_dir():
            continue
        state[name] = folder_state(Path(dataset.path))
        if seen.get(name) == state[name]:
            continue
        if stale(chain, dataset_targets(chain, name)):
            requests.append(
                dg.RunRequest(run_key=f"{name}-{state[name]}", partition_key=name, tags={"fovea/dataset": name})
            )
    if not requests and state == seen:
        return dg.SkipReason(
            "no registered folder changed" if state else "no folder is registered (fovea datasets add NAME PATH)"
        )
    rows = [axis("source_frames").build_add_request([str(r.partition_key) for r in requests])]
    return dg.SensorResult(
        run_requests=requests, cursor=json.dumps(state, sort_keys=True), dynamic_partitions_requests=rows
    )
