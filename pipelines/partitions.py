"""The rows that Dagster shows: what was asked for. Registered folders, what a plan is about to make, what was made."""

from collections.abc import Collection, Iterable, Mapping

import dagster as dg

from assets.chain import Chain, Name
from assets.frames.archive_stage import own_path
from assets.frames.cityscapes import find_finished, read_credentials
from assets.frames.sources import CITYSCAPES, downloads
from assets.graph import Stage, edges
from assets.home import Home
from assets.saliency.names import with_fixations
from assets.stages import open_chain
from assets.world import World
from models.errors import FoveaError
from pipelines.instance import prepare_instance

DATASETS, SWEEPS, EYES = "datasets", "sweeps", "datasets_with_fixations"
#: what stands in the graph of a new installation
FIRST_SWEEP = "sample.smoke"
_FRAMES = ("source_frames", "resized_frames", "saliency_maps", "rgba_frames")
#: stage → the name of its partitions, where several stages share them; the others have partitions of their own
_SHARED = {
    **dict.fromkeys(_FRAMES, DATASETS),
    **dict.fromkeys(("fixation_maps", "saliency_benchmark"), EYES),
    **dict.fromkeys(("rd_curves", "bd_rates", "report"), SWEEPS),
}


def axis(stage: str) -> dg.DynamicPartitionsDefinition:
    """The partitions of a stage: stages with the same ones can be launched together."""
    return dg.DynamicPartitionsDefinition(name=_SHARED.get(stage, stage))


def offer(instance: dg.DagsterInstance, names: Iterable[Name]) -> None:
    """Give these (stage, partition) rows, after those that are there."""
    wanted: dict[str, dict[str, None]] = {}
    for stage, partition in names:
        wanted.setdefault(_SHARED.get(stage, stage), {})[partition] = None
    for name, keys in wanted.items():
        known = set(instance.get_dynamic_partitions(name))
        if new := [key for key in keys if key not in known]:
            instance.add_dynamic_partitions(name, new)


def sync_rows(instance: dg.DagsterInstance, chain: Chain) -> None:
    """Rows for what is registered and what was made; those that no longer can be (their dataset is gone, their sweep
    has other experiments) go."""
    offer(instance, registered(chain.stages, chain.world))
    for stage, maker in chain.stages.items():
        possible = dict.fromkeys(maker.partitions(chain.world))
        made = dict.fromkeys(str(record["partition"]) for record in chain.all_latest(stage))
        offer(instance, [(stage, key) for key in possible if key in made])
        name = _SHARED.get(stage, stage)
        for key in instance.get_dynamic_partitions(name):
            if key not in possible:
                instance.delete_dynamic_partition(name, key)
    if not instance.get_dynamic_partitions(SWEEPS):  # nobody has asked for a sweep yet
        offer(instance, chain.upstream(("report", FIRST_SWEEP)))


#: stages that stand in the graph where there is something for them to do: an asset without partitions is drawn green
OPTIONAL = (
    "cityscapes_archive", "fixation_maps", "saliency_benchmark", "saliency_model",
    "external_rd_points",
)  # fmt: skip


def drawn(stages: Mapping[str, Stage], world: World) -> list[Stage]:
    """The stages that this installation's graph has."""
    found = {stage for stage, _ in registered(stages, world)}
    return [stage for name, stage in stages.items() if name not in OPTIONAL or name in found]


def read_by(stage: Stage, known: Collection[str], world: World) -> list[str]:
    """The assets that a stage reads in this installation, of those that its graph has. One that stands there only for others is
    left out: the UI would warn that it was not made yet."""
    optional = [name for name in stage.reads if name in OPTIONAL and name in known]
    needed = {need.stage for need, _ in edges(stage, world)} if optional else set()
    return [name for name in stage.reads if name in known and (name not in OPTIONAL or name in needed)]


def registered(stages: Mapping[str, Stage], world: World) -> list[Name]:
    """What stands there before anything was made: the folders, and what is known of eyes and checkpoints."""
    archive = _reachable(world)
    kinds = {name: dataset.kind for name, dataset in world.registry.items()}
    here = [name for name, kind in kinds.items() if kind == "folder" or (archive and kind == CITYSCAPES)]
    eyes = with_fixations(world)
    return [
        *(("cityscapes_archive", name) for name in here if kinds[name] == CITYSCAPES),
        *(("source_frames", name) for name in here),
        *((stage, name) for stage in ("fixation_maps", "saliency_benchmark") for name in eyes),
        *(("saliency_model", f"{name}.sam_lite") for name in eyes),
        *(("external_rd_points", key) for key in stages["external_rd_points"].partitions(world)),
    ]


def _reachable(world: World) -> bool:
    """Whether somebody has an account for Cityscapes, or the archive."""
    try:
        if own_path(world) is None and find_finished(downloads(world.home)) is None:
            read_credentials()
    except FoveaError:
        return False
    return True


def shown(home: Home) -> str:
    """Bring the rows of this installation up to date: what was registered or forgotten shows in a UI that is open. Returns what
    a person has to know of it, "" for nothing."""
    prepare_instance(home)
    chain = open_chain(home)
    with dg.DagsterInstance.get() as instance:
        sync_rows(instance, chain)
        eyes = with_fixations(chain.world)
        if len(eyes) == 1 and not instance.get_materialized_partitions(dg.AssetKey("fixation_maps")):
            return (
                f"the eye movements of {eyes[0]} bring assets of their own (fixation_maps, saliency_benchmark, saliency_model): "
                "where Dagster is open, Deployment → Reload shows them"
            )
    return ""
