"""One step of a plan as a Dagster run in this process."""

from collections.abc import Mapping

import dagster as dg

from assets.chain import Chain
from assets.graph import Progress
from pipelines.assets import ASSETS
from pipelines.outcomes import failure_of
from pipelines.plan import Step
from pipelines.resources import FoveaWorkshop, interrupted, set_active_chain
from pipelines.watchers import QUIET

#: the assets alone: what a step of a plan needs of the code location
graph = dg.Definitions(
    assets=ASSETS, resources={"workshop": FoveaWorkshop()}, executor=dg.in_process_executor
)


def made_in_process(
    chain: Chain, instance: dg.DagsterInstance, step: Step, tags: Mapping[str, str], progress: Progress
) -> str:
    """One step as a Dagster run in this thread; what went wrong, or "". Raises KeyboardInterrupt when it was interrupted."""
    set_active_chain(chain, progress)
    try:
        result = graph.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(step.stage)],
            partition_key=step.partition,
            raise_on_error=False,
            tags=tags,
            run_config={"loggers": QUIET},
        )
    finally:
        set_active_chain(None)
    problem = "" if result.success else failure_of(result)
    # by the step, or while Dagster wrote down what the step did
    if interrupted() or dg.DagsterExecutionInterruptedError.__name__ in problem:
        raise KeyboardInterrupt
    return problem
