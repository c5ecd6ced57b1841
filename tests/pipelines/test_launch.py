from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus, RunsFilter

from assets.home import Home
from models.errors import FoveaError
from pipelines.launch import IN_PROCESS, end_orphans, one_run_at_a_time


@dg.op
def nothing() -> None:
    pass


@dg.job
def idle() -> None:
    nothing()


def test_runs_of_killed_commands_are_ended_and_others_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        killed = instance.create_run_for_job(idle, status=DagsterRunStatus.STARTED, tags={IN_PROCESS: "yes"})
        waiting = instance.create_run_for_job(
            idle, status=DagsterRunStatus.NOT_STARTED, tags={IN_PROCESS: "yes"}
        )
        of_the_daemon = instance.create_run_for_job(idle, status=DagsterRunStatus.STARTED)
        end_orphans(instance)
        failed = {r.run_id for r in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))}
        assert failed == {killed.run_id, waiting.run_id}
        running = instance.get_run_by_id(of_the_daemon.run_id)
        assert running is not None
        assert running.status == DagsterRunStatus.STARTED


def test_one_run_at_a_time(installation: Path) -> None:
    home = Home.from_environment()
    with (
        one_run_at_a_time(home),
        pytest.raises(FoveaError, match="another `fovea run`"),
        one_run_at_a_time(home),
    ):
        pass
    with one_run_at_a_time(home):
        pass
