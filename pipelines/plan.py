"""The one planner: what a sweep needs, what of it is stale and why, and in which order it is made.

Keys are hashed from inputs, so the whole plan is known before anything runs. `fovea run`, `fovea status`, the schedule
and the sensor all ask here.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from assets.chain import Chain, Waiting, evaluation_key
from assets.saliency.names import chosen_model, model_targets
from models.errors import FoveaError
from models.saliency.records import training_of, trainings_of
from models.sweeps import Sweep

DATASET_STAGES = ("source_frames", "resized_frames", "saliency_maps", "rgba_frames")
ARCHIVE_STAGE = "cityscapes_archive"
SWEEP_STAGES = ("rd_curves", "bd_rates", "report")


@dataclass(frozen=True)
class Step:
    """One unit of a plan. `why` is "" when the store has it."""

    stage: str
    partition: str
    why: str

    @property
    def stale(self) -> bool:
        """Whether it has to be made."""
        return bool(self.why)


def targets(sweep: Sweep, chain: Chain | None = None) -> list[tuple[str, str]]:
    """Every (stage, partition) of a sweep, in an order in which each comes after what it is made from.

    With a chain, the saliency models that its datasets' maps come from (`saliency` in fovea.toml) are among them.
    """
    measured = sorted({d for e in sweep.experiments for d in e.evaluate_on} | {sweep.dataset})
    found: list[tuple[str, str]] = []
    if chain is not None:
        found += model_targets(chain, sweep.datasets, [e.saliency for e in sweep.experiments])
    found += [target for dataset in sweep.datasets for target in dataset_targets(dataset)]
    found += [("trunk_codec", t.key) for t in sweep.trunks]
    found += [("trained_codec", e.key) for e in sweep.experiments]
    found += [("classical_rd_points", d) for d in measured]
    found += [("rd_points", evaluation_key(e.key, d)) for e in sweep.experiments for d in e.evaluate_on]
    return found + [(stage, sweep.key) for stage in SWEEP_STAGES]


def dataset_targets(dataset: str, chain: Chain | None = None) -> list[tuple[str, str]]:
    """The frame stages of one dataset; Cityscapes' begin with its archive. With a chain, the saliency models that its maps
    come from go first."""
    models = model_targets(chain, [dataset]) if chain is not None else []
    archive = [(ARCHIVE_STAGE, dataset)] if dataset == "cityscapes" else []
    return models + archive + [(stage, dataset) for stage in DATASET_STAGES]


def plan(chain: Chain, wanted: Iterable[tuple[str, str]], *, strict: bool = False) -> list[Step]:
    """Every unit with the reason why it has to be made.

    A unit that can't be keyed because something upstream is missing waits for it, and counts as stale. With `strict`, a
    unit made with other library versions is stale, too.
    """
    steps = []
    for stage, partition in dict.fromkeys(wanted):
        why = chain.why(stage, partition)
        if not why and strict:
            why = library_change(chain, stage, partition)
        steps.append(Step(stage, partition, why))
    return steps


def library_change(chain: Chain, stage: str, partition: str) -> str:
    """Which libraries have another version than when the unit was made; "" when none."""
    from assets.versions import library_versions

    then = chain.store.manifest(stage, chain.unit(stage, partition).key)["meta"].get("libraries", {})
    changed = [f"{k} {then[k]} → {v}" for k, v in library_versions().items() if then.get(k, v) != v]
    return "library " + ", ".join(changed) if changed else ""


@dataclass
class Outcome:
    """What a run of a plan did."""

    made: int = 0
    found: int = 0
    failed: int = 0
    skipped: int = 0
    messages: tuple[str, ...] = ()


#: makes one step; returns "" when it went well, else what went wrong. Called in a thread of its own when `parallel` > 1
Maker = Callable[[Step], str]


def carry_out(
    chain: Chain, wanted: list[tuple[str, str]], make: Maker, *, strict: bool = False, parallel: int = 1
) -> Outcome:
    """Make what is stale, and only that. A failure keeps what does not depend on it going.

    Of what is ready, the first in order is made next, up to `parallel` steps at once; the tables wait for everything
    before them. What a failed unit would have fed is skipped, except the tables, which use what there is. Only this
    thread touches the chain: with `parallel` > 1, `make` has to work with one of its own.
    """
    outcome = Outcome()
    wanted = list(dict.fromkeys(wanted))
    sources = {
        name: wanted[:place] if name[0] in SWEEP_STAGES else upstream(chain, *name)
        for place, name in enumerate(wanted)
    }
    open_names = dict.fromkeys(wanted)  # neither made nor given up
    waiting = list(wanted)
    running: dict[Future[str], tuple[str, str]] = {}
    broken: set[tuple[str, str]] = set()
    problems: dict[tuple[str, str], str] = {}

    def settle(name: tuple[str, str], problem: str | None) -> None:
        """`problem`: None when it was there already, "" when it was made."""
        del open_names[name]
        if problem is None:
            outcome.found += 1
        elif problem:
            outcome.failed += 1
            broken.add(name)
            problems[name] = f"{name[0]} {name[1]}: {problem}"
        else:
            outcome.made += 1

    def start(name: tuple[str, str], pool: ThreadPoolExecutor | None) -> None:
        if name[0] not in SWEEP_STAGES and not broken.isdisjoint(sources[name]):
            outcome.skipped += 1
            broken.add(name)
            del open_names[name]
            return
        try:
            step = plan(chain, [name], strict=strict)[0]
        except FoveaError as error:
            settle(name, str(error))
            return
        if not step.stale:
            settle(name, None)
        elif pool is not None:
            running[pool.submit(make, step)] = name
        else:
            problem = make(step)
            chain.forget()
            settle(name, problem)

    # one step at a time stays in this thread: interrupts reach it, and libraries keep their threads warm
    pool = ThreadPoolExecutor(parallel, "step") if parallel > 1 else None
    try:
        while waiting or running:
            ready = next((n for n in waiting if not any(s in open_names for s in sources[n])), None)
            if ready is not None and len(running) < parallel:
                waiting.remove(ready)
                start(ready, pool)
                continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                chain.forget()
                settle(name, future.result())
    finally:
        if pool is not None:  # after an interrupt the caller ends what is under way
            pool.shutdown(wait=False, cancel_futures=True)
    outcome.messages = tuple(problems[name] for name in wanted if name in problems)
    return outcome


def upstream(chain: Chain, stage: str, partition: str) -> list[tuple[str, str]]:
    """What a unit is made from directly, for skipping after failures."""
    if stage in DATASET_STAGES:
        chain_of_stages = [name for name, _ in dataset_targets(partition)]
        place = chain_of_stages.index(stage)
        models = (
            [("saliency_model", t.key) for t in trainings_of(chosen_model(chain, partition))]
            if stage == "saliency_maps"
            else []
        )
        return [*([(chain_of_stages[place - 1], partition)] if place else []), *models]
    if stage == "fixation_maps":
        return [("resized_frames", partition)]
    if stage == "saliency_model":
        return [("fixation_maps", training_of(partition).dataset)]
    if stage == "saliency_benchmark":
        return [("fixation_maps", partition)]
    if stage == "classical_rd_points":
        return [("rgba_frames", partition)]
    if stage == "trunk_codec":
        dataset = chain.trunks[partition].dataset
        return [("rgba_frames", dataset)] if dataset else []
    if stage == "trained_codec":
        experiment = chain.experiments[partition]
        trunk = [("trunk_codec", experiment.trunk.key)] if experiment.trunk else []
        return [("rgba_frames", experiment.dataset), *trunk]
    if stage == "rd_points":
        key, _, dataset = partition.rpartition("@")
        return [("trained_codec", key), ("rgba_frames", dataset)]
    return []


def stale(chain: Chain, wanted: Iterable[tuple[str, str]], *, strict: bool = False) -> list[Step]:
    """The stale steps of a plan; a unit that cannot be planned is reported with the reason."""
    found = []
    for name in dict.fromkeys(wanted):
        try:
            found += [s for s in plan(chain, [name], strict=strict) if s.stale]
        except Waiting as waiting:
            found.append(Step(*name, str(waiting)))
        except FoveaError as error:
            found.append(Step(*name, f"cannot be made: {error}"))
    return found
