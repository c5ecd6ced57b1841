import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from assets.chain import Chain
from assets.home import Home
from assets.stages import open_chain
from models.errors import FoveaError
from models.sweeps import sweep
from pipelines import plan as planner
from pipelines.plan import Step, carry_out


class FakeChain:
    """Knows what is stale; nothing else."""

    def __init__(self, chain: Chain, stale: set[tuple[str, str]]):
        self.stale_names, self.needs = stale, chain.needs
        self.refused: dict[tuple[str, str], str] = {}
        self.moved_names = set[tuple[str, str]]()
        self.unfit_names = set[tuple[str, str]]()

    def why(self, stage: str, partition: str) -> str:
        if (stage, partition) in self.refused:
            raise FoveaError(self.refused[stage, partition])
        return "never made" if (stage, partition) in self.stale_names else ""

    def unfit(self, stage: str, partition: str) -> bool:
        return (stage, partition) in self.unfit_names

    def moved(self, stage: str, partition: str) -> bool:
        return (stage, partition) in self.moved_names

    def forget(self, stage: str = "", partition: str = "") -> None:
        pass


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[FakeChain]:
    real = open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")))
    yield FakeChain(real, set(WANTED))


WANTED = open_chain().upstream(("report", "sample.tiny"))


def sources(chain: Any, name: tuple[str, str]) -> list[tuple[str, str]]:
    return [(n.stage, n.partition) for n in chain.needs(*name)]


def run(chain: FakeChain, fails: str = "", parallel: int = 1) -> tuple[planner.Outcome, list[tuple[str, str]], int]:
    """The outcome, the order in which steps began, and how many ran at once at most. Each source was done by then."""
    lock, began, ended, most = threading.Lock(), [], set[tuple[str, str]](), 0

    def make(step: Step) -> str:
        nonlocal most
        name = (step.stage, step.partition)
        with lock:
            early = [n[:2] for n in chain.needs(*name) if not n.optional and n[:2] not in ended]
            began.append(name)
            most = max(most, len(began) - len(ended))
        time.sleep(0.002 if parallel > 1 else 0)
        with lock:
            ended.add(name)
            if name == ("trained_codec", fails):
                return "diverged"
            chain.stale_names.discard(name)
            chain.moved_names.discard(name)
        return f"began before {early}" if early else ""

    return carry_out(chain, WANTED, make, parallel=parallel), began, most  # type: ignore[arg-type]


def test_a_model_that_maps_come_from_is_planned_before_them(tmp_path: Path) -> None:
    (tmp_path / "fovea.toml").write_text('[datasets.sample]\nsaliency = "sample.sam_lite+2folds"\n')
    chain = open_chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")))
    wanted = chain.upstream(("report", "sample.tiny"))
    order = {name: place for place, name in enumerate(wanted)}
    models = [name for name in wanted if name[0] == "saliency_model"]
    assert [p for _, p in models] == ["sample.sam_lite", "sample.sam_lite-fold0of2", "sample.sam_lite-fold1of2"]
    for stage, partition in wanted:
        for source in sources(chain, (stage, partition)):
            assert order[source] < order[stage, partition], (source, stage)
    assert set(models) < set(sources(chain, ("saliency_maps", "sample")))


def test_all_stale_is_all_made_then_nothing(chain: FakeChain) -> None:
    outcome, ran, most = run(chain)
    assert ran == WANTED and most == 1 and (outcome.made, outcome.found, outcome.failed) == (len(WANTED), 0, 0)
    outcome, ran, _ = run(chain)
    assert ran == [] and outcome.found == len(WANTED)


@pytest.mark.parametrize("parallel", [1, 4])
def test_what_is_found_again_is_told_of_and_counts_as_found(chain: FakeChain, parallel: int) -> None:
    chain.stale_names, chain.moved_names = set(), {WANTED[0]}
    outcome, ran, _ = run(chain, parallel=parallel)
    assert ran == [WANTED[0]] and (outcome.made, outcome.found, outcome.failed) == (0, len(WANTED), 0)


def test_tables_wait_for_what_they_will_take_up_and_not_for_what_failed_a_check(chain: Any) -> None:
    key = sweep("tiny", "sample").experiments[0].key
    chain.stale_names = {("trained_codec", key), ("rd_points", f"{key}@sample")}

    def stale() -> dict[str, str]:
        return {step.stage: step.why for step in planner.stale(chain, WANTED)}

    assert list(stale()) == ["trained_codec", "rd_points", "rd_curves", "bd_rates", "report"]
    assert stale()["rd_curves"] == f"waits for rd_points of {key}@sample"
    chain.unfit_names = {("trained_codec", key)}
    assert list(stale()) == ["trained_codec", "rd_points"]


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_failed_experiment_keeps_the_others_going(chain: FakeChain, parallel: int) -> None:
    key = sweep("tiny", "sample").experiments[2].key
    outcome, ran, _ = run(chain, key, parallel)
    assert (outcome.failed, outcome.skipped) == (1, 1) and ("rd_points", f"{key}@sample") not in ran
    assert ran[-1] == ("report", "sample.tiny")
    assert len([r for r in ran if r[0] == "rd_points"]) == len(sweep("tiny", "sample").experiments) - 1
    assert outcome.messages == (f"trained_codec {key}: diverged",)


def test_a_unit_that_cannot_be_planned_is_a_failure_with_its_reason(chain: FakeChain) -> None:
    chain.refused["source_frames", "sample"] = "the folder is gone"
    outcome, ran, _ = run(chain)
    assert "source_frames sample: the folder is gone" in outcome.messages
    assert not [r for r in ran if r[0] in ("resized_frames", "trained_codec", "rd_points")]


def test_steps_run_at_once_when_what_they_need_is_there(chain: FakeChain) -> None:
    outcome, began, most = run(chain, parallel=4)
    assert (outcome.made, outcome.failed, outcome.messages) == (len(WANTED), 0, ()) and sorted(began) == sorted(WANTED)
    assert 2 <= most <= 4 and [stage for stage, _ in began[-3:]] == ["rd_curves", "bd_rates", "report"]


def test_an_exception_in_a_parallel_step_ends_the_run(chain: FakeChain) -> None:
    def make(step: Step) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carry_out(chain, WANTED, make, parallel=3)  # type: ignore[arg-type]
