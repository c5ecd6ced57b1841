"""Runs as a job on the Ray cluster: what each node has, and which versions it would compute with, as one line of JSON."""

import json
import platform
import time
from typing import Any

from assets.versions import commit, library_versions

MARK = "fovea-nodes "
#: seconds that all nodes together have to answer
ANSWER_S = 90.0
LIBRARIES = ("torch", "dagster", "fovea")


def own_versions() -> dict[str, str]:
    """Python, libraries and commit of this process; nodes must agree on all."""
    return {"python": platform.python_version(), **library_versions(LIBRARIES), "commit": commit()}


def look() -> list[dict[str, Any]]:
    """Name, CPUs, GPUs and versions of every node alive."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    task = ray.remote(num_cpus=0)(own_versions)
    asked = {
        node["NodeID"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in alive
    }
    found, until = [], time.monotonic() + ANSWER_S
    for node in alive:
        try:
            versions = ray.get(asked[node["NodeID"]], timeout=max(0.1, until - time.monotonic()))
        except Exception as error:  # a node without our code is what is looked for
            versions = {"fovea": f"cannot be asked ({str(error).strip().splitlines()[-1][:150]})"}
        resources = node["Resources"]
        found.append(
            {
                "name": node["NodeManagerHostname"] + " " + node["NodeManagerAddress"],
                "cpus": float(resources.get("CPU", 0)),
                "gpus": float(resources.get("GPU", 0)),
                "versions": versions,
            }
        )
    return found


if __name__ == "__main__":
    print(MARK + json.dumps(look()), flush=True)
