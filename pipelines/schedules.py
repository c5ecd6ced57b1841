"""The nightly rerun, which launches only what is stale, and the weekly question whether Cityscapes changed."""

import os
from collections.abc import Iterable

import dagster as dg

from assets.chain import Chain, Name
from assets.graph import Progress, silent
from assets.home import Home
from models.errors import FoveaError
from pipelines.plan import Step, dataset_targets, stale, targets


class Refresh(dg.Config):
    """Which sweeps to bring up to date, as `dataset.sweep`."""

    sweeps: list[str]


def brought_up_to_date(
    context: dg.OpExecutionContext, chain: Chain, name: str, wanted: list[Name], sweep: str = ""
) -> tuple[str, ...]:
    """Make what is stale in this one process, so that imports are paid once; what went wrong. Call under the run lock."""
    from pipelines.launch import run_targets

    def show(step: Step) -> Progress:
        context.log.info(f"{step.stage} {step.partition}: {step.why}")
        return silent

    outcome = run_targets(chain, wanted, sweep=sweep, show=show, instance=context.instance)
    context.log.info(f"{name}: {outcome.made} made, {outcome.found} found, {outcome.failed} failed")
    chain.tracker.flush()
    return outcome.messages


def fail_with(problems: Iterable[str]) -> None:
    """End the op as failed where there is any problem."""
    if said := "; ".join(problems):
        raise dg.Failure(description=said, allow_retries=False)


@dg.op(
    description="Makes what is stale of the sweeps, each unit as a Dagster run of its own asset and partition."
)
def bring_up_to_date(context: dg.OpExecutionContext, config: Refresh) -> None:
    """Sweep after sweep; one that is not there does not keep the others."""
    from pipelines.launch import one_run_at_a_time
    from pipelines.mlflow_tracking import tracked_chain

    home, problems = Home.from_environment(), list[str]()
    with one_run_at_a_time(home):
        for key in config.sweeps:
            chain = tracked_chain(home)
            if key in chain.sweeps:
                problems += brought_up_to_date(
                    context, chain, key, targets(chain, chain.sweeps[key]), sweep=key
                )
            else:
                problems.append(f"no sweep {key!r}; write dataset.sweep, for example sample.smoke")
    fail_with(problems)


# it plans and waits beside the daemon whatever the profile's executor is; what it starts goes to the cluster
@dg.job(
    description="Brings sweeps up to date: computes what is stale, makes it, computes again.",
    executor_def=dg.in_process_executor,
)
def refresh() -> None:
    """See bring_up_to_date."""
    bring_up_to_date()


def kept_fresh() -> list[str]:
    """`dataset.sweep` names that the schedule looks after: FOVEA_NIGHTLY, default every sweep that has been run once."""
    from assets.stages import open_chain

    named = os.environ.get("FOVEA_NIGHTLY", "")
    if named:
        return [n.strip() for n in named.split(",") if n.strip()]
    chain = open_chain()
    return [r["partition"] for r in chain.all_latest("report") if r["partition"] in chain.sweeps]


@dg.schedule(
    job=refresh,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    description="Every night at 2: reruns what is stale, and only that.",
)
def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Asks the planner; a night on which nothing changed launches nothing."""
    from assets.stages import open_chain

    chain = open_chain()
    found = {
        key: stale(chain, targets(chain, chain.sweeps[key])) for key in kept_fresh() if key in chain.sweeps
    }
    work = {key: steps for key, steps in found.items() if steps}
    if not work:
        return dg.SkipReason(
            "nothing is stale" if found else "no sweep has been run yet (fovea run --sweep NAME)"
        )
    count = sum(len(steps) for steps in work.values())
    return dg.RunRequest(
        run_config={"ops": {"bring_up_to_date": {"config": {"sweeps": sorted(work)}}}},
        tags={"fovea/stale": str(count), "fovea/why": next(iter(work.values()))[0].why[:200]},
    )


@dg.op(
    description="Downloads the changed Cityscapes archive (the old one stays until it is whole), then its frames."
)
def bring_change(context: dg.OpExecutionContext) -> None:
    """Download beside what is there, replace it, and make what that makes stale of the frames."""
    from assets.frames.archive_stage import fetch
    from pipelines.launch import one_run_at_a_time
    from pipelines.mlflow_tracking import tracked_chain
    from pipelines.resources import logged

    home = Home.from_environment()
    with one_run_at_a_time(home):
        fetch(home, logged(context.log.info), look_for_change=True)
        chain = tracked_chain(home)
        problems = brought_up_to_date(context, chain, "cityscapes", dataset_targets(chain, "cityscapes"))
    fail_with(problems)


@dg.job(
    description="Downloads the Cityscapes archive again when the site has another one, and makes its frames."
)
def fetch_change() -> None:
    """See bring_change."""
    bring_change()


@dg.schedule(
    job=fetch_change,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    description="Mondays at 3: asks the Cityscapes site whether the package changed. Off until started; needs credentials.",
)
def cityscapes_changes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Three small requests; downloads only when the md5 that the site states differs from what is here."""
    from assets.frames.archive_stage import ask_site, own_path
    from assets.frames.cityscapes import find_finished, read_credentials
    from assets.frames.sources import downloads
    from assets.stages import open_chain

    home = Home.from_environment()
    try:
        own = own_path(open_chain(home).world)
        if own is not None:
            return dg.SkipReason(f"{own} is yours: the site is not asked")
        if find_finished(downloads(home)) is None:
            return dg.SkipReason(
                "Cityscapes is not downloaded (fovea run --frames-only --dataset cityscapes)"
            )
        read_credentials()
        md5 = ask_site(home)
    except FoveaError as error:
        return dg.SkipReason(f"the site could not be asked: {error}")
    if md5 is None:
        return dg.SkipReason("the site offers the archive that is here")
    return dg.RunRequest(run_key=f"cityscapes-{md5}", tags={"fovea/why": f"the site's md5 is {md5}"})
