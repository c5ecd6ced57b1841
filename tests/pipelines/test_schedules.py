"""What the schedules ask for, and what their jobs do when somebody else is at work."""

import threading
from pathlib import Path

import dagster as dg
import pytest

from assets.home import Home
from pipelines import schedules
from pipelines.launch import one_run_at_a_time
from pipelines.schedules import Wanted, bring_up_to_date, nightly


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "no sweep has been run yet"),
        ("sample.smokee", "unknown sweep 'sample.smokee'; did you mean 'sample.smoke'"),
        ("moon.smoke,sample.smoke", None),
    ],
)
def test_a_sweep_that_is_not_there_is_named_and_keeps_no_other(
    named: str, said: str | None, installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_NIGHTLY", named)
    told = nightly(dg.build_schedule_context())
    if said is None:
        assert isinstance(told, dg.RunRequest)
        assert told.run_config["ops"]["bring_up_to_date"]["config"]["sweeps"] == ["sample.smoke"]
    else:
        assert isinstance(told, dg.SkipReason) and said in str(told.skip_message)


def test_a_job_waits_for_the_run_that_is_at_work(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, made = Home.from_environment(), list[str]()
    monkeypatch.setattr(schedules, "brought_up_to_date", lambda _, __, name, *___: made.append(name) or ())
    taken, free = threading.Event(), threading.Event()

    def work() -> None:
        with one_run_at_a_time(home):
            taken.set()
            free.wait(30)

    worker = threading.Thread(target=work)
    worker.start()
    taken.wait(30)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_op_context(instance=instance)
        wanted = Wanted(sweeps=[], units=["source_frames sample"])
        with monkeypatch.context() as patched:
            patched.setattr(schedules, "WAIT_S", 0.2)
            with pytest.raises(Exception, match="another `fovea run` works on"):
                bring_up_to_date(context, wanted)
        threading.Timer(0.5, free.set).start()
        bring_up_to_date(context, wanted)
    worker.join()
    assert made == ["units"]
