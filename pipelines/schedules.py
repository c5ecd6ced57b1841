"""The nightly rerun, which launches only what is stale; the weekly question whether Cityscapes changed; and the sensor that
notices pictures: a registered folder whose files changed gets its frame stages run."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg
from pydantic import Field

from assets.chain import Chain, Name
from assets.datasets import Dataset
from assets.frames.archive_stage import ask_site, fetch, own_path
from assets.frames.cityscapes import find_finished, read_credentials
from assets.frames.folder import find_pictures
from assets.frames.sources import downloads
from assets.graph import Progress, silent
from assets.home import Home
from assets.log import logged
from assets.registration import register
from assets.stages import open_chain
from models.errors import FoveaError
from models.validation import unknown
from pipelines.assets import JOBS
from pipelines.launch import one_run_at_a_time, run_targets
from pipelines.mlflow_tracking import tracked_chain
from pipelines.partitions import FIRST_SWEEP, axis, shown
from pipelines.plan import Step, stale
from pipelines.steps import sweep_tags

#: how long a job waits for a `fovea run`: a refused one would come back the next night, or the next week
WAIT_S = 6 * 3600.0


class Wanted(dg.Config):
    """What to bring up to date."""

    sweeps: list[str] = Field([FIRST_SWEEP], description="dataset.sweep: frames, codecs, tables and report of each")
    units: list[str] = Field(
        [],
        description="single artifacts with what they are made from, each as an asset and its partition: rgba_frames kodak",
    )


def brought_up_to_date(
    context: dg.OpExecutionContext, chain: Chain, name: str, wanted: list[Name], sweep: str = ""
) -> tuple[str, ...]:
    """Make what is stale in this one process, so that imports are paid once; what went wrong. Call under the run lock."""

    def show(step: Step) -> Progress:
        context.log.info(f"{step.stage} {step.partition}: {step.reason}")
        return silent

    outcome = run_targets(chain, wanted, context, sweep=sweep, show=show)
    context.log.info(f"{name}: {outcome.made} made, {outcome.found} found, {outcome.failed} failed")
    chain.tracker.flush()
    return outcome.messages


@contextlib.contextmanager
def in_turn(context: dg.OpExecutionContext, home: Home) -> Iterator[None]:
    """The run lock; another run is waited for. Raises FoveaError after WAIT_S."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(one_run_at_a_time(home))
        except FoveaError:
            context.log.info(
                f"another run works on {home.state}: this one waits for it, {WAIT_S / 3600:g} hours at most"
            )
            held.enter_context(one_run_at_a_time(home, WAIT_S))
        yield


def fail_with(problems: Iterable[str]) -> None:
    """End the op as failed where there is any problem."""
    if said := "; ".join(problems):
        raise dg.Failure(description=said, allow_retries=False)


def units_of(chain: Chain, sweep: str) -> list[Name]:
    """Everything of `dataset.sweep`. Raises FoveaError for one that is not there."""
    return chain.upstream(("report", chain.world.sweep(sweep).key))


def unit_named(chain: Chain, unit: str) -> list[Name]:
    """`asset partition` as both, with everything that it is made from. Raises FoveaError for what is not there: a row of the
    graph would be left of it."""
    stage, _, partition = unit.partition(" ")
    if stage not in chain.stages:
        raise FoveaError(unknown("asset", stage, chain.stages))
    if partition not in (possible := chain.stages[stage].partitions(chain.world)):
        raise FoveaError(f"{stage}: {unknown('partition', partition, possible)}")
    return chain.upstream((stage, partition))


@dg.op(description="Makes what is stale, each unit as a materialization of its asset and partition.")
def bring_up_to_date(context: dg.OpExecutionContext, config: Wanted) -> None:
    """One after the other; one that is not there does not keep the others."""
    home, problems = Home.from_environment(), list[str]()
    if config.sweeps:
        context.instance.add_run_tags(context.run_id, sweep_tags(*config.sweeps))
    if not (config.sweeps or config.units):
        problems.append(f"nothing to do: name a sweep, such as {FIRST_SWEEP}, or a unit")
    with in_turn(context, home):
        for name in (*config.sweeps, *config.units):
            chain, sweep = tracked_chain(home), name if name in config.sweeps else ""
            try:
                wanted = units_of(chain, sweep) if sweep else unit_named(chain, name)
                problems += brought_up_to_date(context, chain, name, wanted, sweep)
            except FoveaError as error:
                problems.append(str(error))
    fail_with(problems)


# it plans and waits beside the daemon whatever the profile's executor is; what it starts goes to the cluster
@dg.job(
    description="Brings a sweep up to date, from its pictures to its report: what `fovea run` does. Launch it as it stands for "
    "sample.smoke (about ten minutes on two cores), or name other sweeps in the launchpad. Only what is stale is made.",
    executor_def=dg.in_process_executor,
)
def sweep() -> None:
    """See bring_up_to_date."""
    bring_up_to_date()


def kept_fresh() -> list[str]:
    """`dataset.sweep` names that the schedule looks after: FOVEA_NIGHTLY, default every sweep that has been run once."""
    named = os.environ.get("FOVEA_NIGHTLY", "")
    if named:
        return [n.strip() for n in named.split(",") if n.strip()]
    chain = open_chain()
    return [r["partition"] for r in chain.all_latest("report") if r["partition"] in chain.world.sweeps]


@dg.schedule(
    job=sweep,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    description="Every night at 2 UTC: makes what is stale of every sweep that was run once (or of those that FOVEA_NIGHTLY "
    "names). On, it costs a look at the folders a night (seconds), and the work itself only when pictures, settings or code "
    "have changed: then as much as `fovea run`. Needs `fovea ui` to be running.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks the planner; a night on which nothing changed launches nothing."""
    chain = open_chain()
    found, problems = dict[str, list[Step]](), list[str]()
    for key in kept_fresh():
        try:
            found[key] = stale(chain, units_of(chain, key))
        except FoveaError as error:
            problems.append(str(error))
            context.log.warning(str(error))
    work = {key: steps for key, steps in found.items() if steps}
    if not work:
        none = ["nothing is stale"] if found else []
        return dg.SkipReason("; ".join(none + problems) or "no sweep has been run yet (fovea run --sweep NAME)")
    count = sum(len(steps) for steps in work.values())
    return dg.RunRequest(
        run_config={"ops": {"bring_up_to_date": {"config": {"sweeps": sorted(work)}}}},
        tags={"fovea/stale": str(count), "fovea/why": next(iter(work.values()))[0].why[:200]},
    )


@dg.op(description="Downloads the changed Cityscapes archive (the old one stays until it is whole), then its frames.")
def bring_change(context: dg.OpExecutionContext) -> None:
    """Download beside what is there, replace it, and make what that makes stale of the frames."""
    home = Home.from_environment()
    with in_turn(context, home):
        fetch(home, logged(context.log.info), look_for_change=True)
        chain = tracked_chain(home)
        problems = brought_up_to_date(context, chain, "cityscapes", chain.upstream(("rgba_frames", "cityscapes")))
    fail_with(problems)


@dg.job(description="Downloads the Cityscapes archive again when the site has another one, and makes its frames.")
def fetch_change() -> None:
    """See bring_change."""
    bring_change()


@dg.schedule(
    job=fetch_change,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    description="Mondays at 3 UTC: asks the Cityscapes site whether its package changed. On, it costs three small requests a "
    "week with your account; a changed package is downloaded again (11 GB) and its frames are made anew.",
)
def cityscapes_changes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Three small requests; downloads only when the md5 that the site states differs from what is here."""
    home = Home.from_environment()
    try:
        own = own_path(open_chain(home).world)
        if own is not None:
            return dg.SkipReason(f"{own} is yours: the site is not asked")
        if find_finished(downloads(home)) is None:
            return dg.SkipReason("Cityscapes is not downloaded (fovea run --frames-only --dataset cityscapes)")
        read_credentials()
        md5 = ask_site(home)
    except FoveaError as error:
        return dg.SkipReason(f"the site could not be asked: {error}")
    if md5 is None:
        return dg.SkipReason("the site offers the archive that is here")
    return dg.RunRequest(run_key=f"cityscapes-{md5}", tags={"fovea/why": f"the site's md5 is {md5}"})


class Folder(dg.Config):
    """A folder of pictures to register."""

    name: str = Field("pictures", description="what the dataset is called: small letters, digits, - and _")
    path: str = Field(description="the folder, on the machine where Dagster runs")
    size: str = Field("native", description="WxH (area-resized, never enlarged) or native")
    splits: str = Field(
        "", description="counts by sorted name, such as 500/60/140, or a CSV; empty: folders, else by name"
    )
    fixations: str = Field("", description="a Parquet or CSV table with image, subject, x, y; empty for none")


@dg.op(name="register", description="Looks at a folder of pictures and registers it, as `fovea datasets add` does.")
def register_folder(context: dg.OpExecutionContext, config: Folder) -> None:
    """Its row appears in the graph at once."""
    home = Home.from_environment()

    def say(line: str, warns: bool) -> None:
        (context.log.warning if warns else context.log.info)(line)

    given = {"size": config.size, "splits": config.splits or None, "fixations": config.fixations or None}
    try:
        dataset = register(home, config.name, config.path, say, **given)
    except FoveaError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None
    if news := shown(home):
        context.log.warning(news)
    context.log.info(f"registered {dataset.name}: {dataset.path}")


@dg.job(
    description="Registers a folder of pictures under a name; its row appears in the graph at once. The launchpad asks for `path`, "
    "the folder; `name` and the rest have defaults. Other options: `fovea datasets add --help`.",
    executor_def=dg.in_process_executor,
)
def register_dataset() -> None:
    """See register_folder."""
    register_folder()


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
