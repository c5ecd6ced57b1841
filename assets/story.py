"""A unit's story in the tracker, from its beginning to its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from assets.graph import Task
from models.tracking import Run


@contextmanager
def told(task: Task, *, dataset: str, name: str, parent: str | None = None) -> Iterator[Run]:
    """The run of a unit that is being made, in the dataset's experiment: FINISHED with the block, FAILED where that raises.

    parent: the key of the run that it hangs under (default: what the task's tags say). The unit notes the run.
    """
    run = task.tracker.run(
        experiment=f"fovea-{dataset}",
        name=name,
        key=task.unit.digest,
        parent_key=task.tags.get("fovea.parent", "") if parent is None else parent,
        tags=task.tag(),
    )
    try:
        yield run
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise
    task.writer.meta["mlflow_run_id"] = run.run_id
    task.writer.meta["mlflow_key"] = task.unit.digest
