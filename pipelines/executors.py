"""Who carries out steps: this process by default, a Ray cluster under a profile whose executor is `ray`.

What a step asks of a cluster is decided here, in `demand`. Nothing here imports ray: `pipelines/ray_cluster.py` does.
"""

from typing import NamedTuple

from assets.chain import Chain
from assets.home import Home
from assets.settings import Profile
from models.codecs.catalogue import config_for
from models.experiments import Experiment, Trunk
from models.presets import find_preset

#: what training one codec of full width (preset `paper`: N = 128, M = 192) asks for: a whole GPU
FULL_WIDTH = find_preset("paper").n * find_preset("paper").m
#: shares of a GPU that steps ask for: eight of the smallest fit on one
GPU_SHARES = (0.125, 0.25, 0.5, 1.0)
#: a step that hands its frames out in chunks waits most of the time: it asks for memory alone, since a part of a CPU
#: would keep a chunk off that CPU. (A step that asked for nothing would run on the head.)
WAITS_BYTES = 1 << 29


def cluster_of(home: Home) -> Profile | None:
    """The profile whose Ray cluster carries out steps, None when they stay in this process."""
    return home.profile if home.profile.executor == "ray" else None


def asked_of(cluster: Profile, threads: int = 0, device: str = "auto") -> Profile:
    """The cluster with the threads and the device of one run, where that names any."""
    named = {"ray_threads": threads} if threads else {}
    return cluster.model_copy(update=named | ({} if device == "auto" else {"device": device}))


class Demand(NamedTuple):
    """What a step asks of the cluster's scheduler."""

    cpus: float
    gpus: float
    memory_bytes: int = 0


def gpu_share(n: int, m: int) -> float:
    """The share of a GPU that training or measuring a codec of N filters and M latent channels asks for.

    N·M of the full width, rounded up to one of GPU_SHARES: most of a codec's weights and of its work lie in layers
    between N and N, and N and M channels.
    """
    wanted = n * m / FULL_WIDTH
    return next((share for share in GPU_SHARES if wanted <= share), 1.0)


def demand(chain: Chain, stage: str, partition: str, cluster: Profile) -> Demand:
    """CPUs and GPUs of one step. A step asks for no GPU where the profile's device is the CPU."""
    if chain.stages[stage].fanned_out:
        return Demand(0.0, 0.0, WAITS_BYTES)
    cpus = float(cluster.ray_threads)
    if not cluster.device.startswith("cuda"):
        return Demand(cpus, 0.0)
    if stage in ("trunk_codec", "trained_codec", "rd_points"):
        return Demand(cpus, _codec_share(chain, stage, partition))
    return Demand(cpus, 1.0 if stage in ("saliency_model", "saliency_benchmark", "external_rd_points") else 0.0)


def chunk_demand(stage: str, cluster: Profile) -> Demand:
    """CPUs and GPUs of one chunk of frames."""
    predicts = stage == "saliency_maps" and cluster.device.startswith("cuda")
    return Demand(float(cluster.ray_threads), GPU_SHARES[1] if predicts else 0.0)


def _codec_share(chain: Chain, stage: str, partition: str) -> float:
    entry: Experiment | Trunk
    if stage == "trunk_codec":
        entry = chain.world.trunks[partition]
        if entry.shipped:
            return 0.0
    else:
        entry = chain.world.experiment(partition.rpartition("@")[0] if stage == "rd_points" else partition)
    config = config_for(entry)
    return gpu_share(config.n, config.m)
