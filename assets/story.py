"""A unit's story in the tracker, from its beginning to its end."""

from collections.abc import Iterator
from contextlib import contextmanager

from assets.chain import Chain, Unit
from assets.store import UnitWriter
from models.tracking import Run


@contextmanager
def told(
    chain: Chain, unit: Unit, writer: UnitWriter, *, dataset: str, name: str, parent: str | None = None
) -> Iterator[Run]:
    """The run of a unit that is being made, in the dataset's experiment: FINISHED with the block, FAILED where that raises.

    parent: the key of the run that it hangs under (default: what the chain's tags say). The unit notes the run.
    """
    run = chain.tracker.run(
        experiment=f"fovea-{dataset}",
        name=name,
        key=unit.key,
        parent_key=chain.tags.get("fovea.parent", "") if parent is None else parent,
        tags={
            **chain.tags,
            "fovea.stage": unit.stage,
            "fovea.unit": unit.key,
            "fovea.partition": unit.partition,
        },
    )
    try:
        yield run
        run.finish()
    except BaseException:
        run.finish("FAILED")
        raise
    writer.meta["mlflow_run_id"] = run.run_id
    writer.meta["mlflow_key"] = unit.key
