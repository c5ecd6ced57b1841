"""What a Dagster run came to, in a line, and Dagster's own log kept off the terminal."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import dagster as dg


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Dagster's own step log stays in its instance; the terminal shows Fovea's progress."""
    logger = logging.getLogger("dagster")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def failure_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> str:
    """The first thing that went wrong, in a line: a blocking check, or the step's error."""
    for event in result.get_asset_check_evaluations():
        if not event.passed and event.blocking:
            detail = event.metadata.get("detail")
            return f"check {event.check_name} failed" + (f": {detail.value}" if detail is not None else "")
    failures = [event for event in result.all_events if event.is_failure]
    for failure in failures:
        data: Any = failure.event_specific_data
        told = getattr(data, "user_failure_data", None)
        if told is not None and told.description:
            return str(told.description)
        error = getattr(data, "error", None)
        if error is not None:
            return str((error.cause or error).message).strip()
    return failures[0].message or "failed" if failures else "failed"
