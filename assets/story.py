"""A unit's story in the tracker, from its beginning to its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from assets.graph import Artifact, Task
from assets.world import World
from models.codecs.catalogue import config_for
from models.experiments import Experiment, Trunk
from models.sweeps import Sweep
from models.tracking import Run


def short_name(entry: Experiment | Trunk) -> str:
    """What a training is called among those of its sweep: `0.013 saliency_gain bls2017`. Tables cut the end off, and sort by
    it as text: of 2 and 16 iterations the first is 02."""
    if isinstance(entry, Trunk):
        return f"{entry.codec} trunk"
    rate = f"{entry.rates[0]:02g}" if len(entry.rates) == 1 else ""
    seed = f"seed {entry.seed}" if entry.seed else ""
    return " ".join(filter(None, (rate, entry.label, entry.codec, entry.variant, seed)))


def record_of(entry: Experiment | Trunk, world: World) -> dict[str, Any]:
    """The record as parameters of a run: its rate as a number where it has one, the model that its maps come from, the widths
    that its codec has and every option; without what it makes no use of."""
    config = config_for(entry)
    options = {name: option.default for name, option in entry.card.options.items()} | dict(config.options)
    record = options | entry.resolved() | {"n": config.n, "m": config.m}
    if isinstance(entry, Experiment):
        record = {name: value for name, value in record.items() if name not in entry.unused()}
    if record.get("saliency"):
        record["saliency"] = world.dataset(entry.dataset).saliency or record["saliency"]
    rates = record.pop(entry.rate_name, [])
    return {**record, "rate_name": entry.rate_name, "rate": rates[0] if len(rates) == 1 else rates}


def maps_by(task: Task, dataset: str, maps: str) -> dict[str, str]:
    """The saliency model behind a run's maps, with its version, as a tag: as a parameter it would differ from arm to
    arm, and say nothing when two are compared."""
    if maps not in ("predicted", "shuffled"):
        return {}
    return {"fovea.maps_by": str(task.given["rgba_frames", dataset].facts["maps_by"])}


@contextmanager
def training_run(task: Task, trained: Artifact, experiment: Experiment) -> Iterator[Run]:
    """The run of a training that is over, to tell it what was found later."""
    key = str(trained.meta.get("mlflow_key", trained.unit.digest))
    run = task.tracker.run(experiment=f"fovea-{experiment.dataset}", name=short_name(experiment), key=key)
    yield run
    run.finish()


@contextmanager
def rate_run(
    task: Task, trained: Artifact, experiment: Experiment, rate: float, tags: Mapping[str, str] = {}
) -> Iterator[Run]:
    """Of a training that serves several rates, one of them, beside trainings that serve one: a run under its own. tags: of the
    task that made it."""
    own = {"stage": "trained_codec", "unit": trained.unit.digest, "partition": experiment.key}
    key = str(trained.meta.get("mlflow_key", trained.unit.digest))
    run = task.tracker.run(
        experiment=f"fovea-{experiment.dataset}",
        name=f"{rate:02g} {short_name(experiment)}",
        key=f"{key} {rate:g}",
        parent_key=key,
        tags={**tags, **{f"fovea.{name}": value for name, value in own.items()}},
    )
    run.log_params(record_of(experiment, task.world) | {"rate": rate})
    yield run
    run.finish()


@contextmanager
def sweep_run(task: Task, sweep: Sweep) -> Iterator[Run]:
    """The run that those of a sweep hang under. The unit notes it."""
    key = f"sweep {sweep.key}"
    tags = {**task.tags, "fovea.stage": "sweep", "fovea.sweep": sweep.key}
    run = task.tracker.run(experiment=f"fovea-{sweep.dataset}", name=key, key=key, tags=tags)
    yield run
    run.finish()
    task.writer.meta["mlflow_run_id"] = run.run_id
    task.writer.meta["mlflow_key"] = key


@contextmanager
def told(task: Task, *, dataset: str, name: str, parent: str | None = None) -> Iterator[Run]:
    """The run of a unit that is being made, in the dataset's experiment: FINISHED with the block, FAILED where that raises.
    parent: the key of the run that it hangs under (default: what the task's tags say). The unit notes the run."""
    run = task.tracker.run(
        experiment=f"fovea-{dataset}",
        name=name,
        key=task.unit.digest,
        parent_key=task.tags.get("fovea.parent", "") if parent is None else parent,
        tags={
            **task.tag(),
            "mlflow.note.content": f"`{task.partition}`: in Dagster that partition of the asset `{task.unit.stage}`.",
        },
    )
    try:
        yield run
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise
    task.writer.meta["mlflow_run_id"] = run.run_id
    task.writer.meta["mlflow_key"] = task.unit.digest
