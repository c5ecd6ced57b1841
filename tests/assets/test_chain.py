import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from assets.chain import Chain, Progress, Unit, Waiting, explain
from assets.home import Home
from assets.settings import Profile
from assets.store import UnitWriter
from models.errors import FoveaError

SETTINGS: dict[str, Any] = {}


class Grow:
    """Makes a file from a setting; counts how often."""

    name = "grow"

    def unit(self, chain: Chain, partition: str) -> Unit:
        return Unit(self.name, partition, {"record": {"lr": SETTINGS["lr"]}, "code": SETTINGS["code"]})

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        SETTINGS["made"] = SETTINGS.get("made", 0) + 1
        if SETTINGS.get("fail"):
            writer.path("half").write_text("half")
            raise FoveaError("no luck")
        writer.path("value").write_text(str(SETTINGS["lr"]))
        writer.meta["facts"] = {"lr": SETTINGS["lr"]}


class Harvest:
    """Needs what Grow made."""

    name = "harvest"

    def unit(self, chain: Chain, partition: str) -> Unit:
        grown = chain.unit("grow", partition)
        if not chain.store.has("grow", grown.key):
            raise Waiting("grow", partition)
        return Unit(self.name, partition, {"grown": grown.key})

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        writer.path("value").write_text(chain.store.path("grow", unit.inputs["grown"], "value").read_text())


STAGES = {"grow": Grow(), "harvest": Harvest()}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    SETTINGS.clear()
    SETTINGS.update(lr=1e-4, code="a" * 12)
    return Chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")), STAGES)


def test_the_second_time_is_a_hit(chain: Chain) -> None:
    first = chain.make("grow", "p")
    second = chain.make("grow", "p")
    assert (first.hit, second.hit) == (False, True)
    assert SETTINGS["made"] == 1
    assert second.facts == {"lr": 1e-4}
    assert (second.folder / "value").read_text() == "0.0001"


def test_a_changed_setting_is_stale_and_says_why_and_going_back_finds_the_earlier_result(
    chain: Chain,
) -> None:
    chain.make("grow", "p")
    SETTINGS["lr"] = 2e-4
    chain.forget()
    assert not chain.ready("grow", "p")
    assert chain.why("grow", "p") == "lr 0.0001 → 0.0002"
    assert not chain.make("grow", "p").hit
    SETTINGS["lr"] = 1e-4
    chain.forget()
    assert chain.why("grow", "p") == ""
    assert chain.make("grow", "p").hit
    assert SETTINGS["made"] == 2


def test_equal_work_is_found_under_another_name(chain: Chain) -> None:
    chain.make("grow", "p")
    assert chain.make("grow", "q").hit


def test_a_unit_waits_for_what_it_is_made_from(chain: Chain) -> None:
    assert chain.why("harvest", "p") == "waits for grow of p"
    with pytest.raises(Waiting):
        chain.make("harvest", "p")
    chain.make("grow", "p")
    chain.forget()
    assert chain.why("harvest", "p") == "never made"
    assert not chain.make("harvest", "p").hit


def test_a_failure_leaves_the_unit_unmade(chain: Chain) -> None:
    SETTINGS["fail"] = True
    with pytest.raises(FoveaError, match="no luck"):
        chain.make("grow", "p")
    assert not chain.ready("grow", "p")
    SETTINGS["fail"] = False
    assert not chain.make("grow", "p").hit


def test_a_result_that_was_deleted_is_made_again(chain: Chain) -> None:
    made = chain.make("grow", "p")
    (made.folder / "manifest.json").unlink()
    assert chain.why("grow", "p") == "its result is no longer in the store"
    assert not chain.make("grow", "p").hit


def test_a_lock_that_is_held_is_named(chain: Chain) -> None:
    with chain.locked("tables"):
        other = Chain(chain.home, STAGES)
        with pytest.raises(FoveaError, match="tables is held"), other.locked("tables", timeout=0):
            pass


def _make_in_a_process(chain: Chain, barrier: Any) -> None:
    barrier.wait()
    chain.make("grow", "p")


def test_two_processes_make_a_unit_once(chain: Chain) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_make_in_a_process, args=(chain, barrier)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    assert chain.make("grow", "p").hit


def test_explanations() -> None:
    before = {"record": {"lr": 1, "steps": 5}, "code": "x", "train_frames": "0" * 32, "lmbda": [0.1]}
    now = {"record": {"lr": 2, "steps": 5}, "code": "y", "train_frames": "1" * 32, "lmbda": [0.2]}
    assert explain(before, now) == [
        "code changed (x → y)",
        "lmbda [0.1] → [0.2]",
        "lr 1 → 2",
        "train frames changed",
    ]
    assert explain(now, now) == []


def test_unknown_names_are_clear(tmp_path: Path) -> None:
    chain = Chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")), STAGES)
    with pytest.raises(FoveaError, match="unknown dataset 'moon'; registered: sample, cityscapes"):
        chain.dataset("moon")
    with pytest.raises(FoveaError, match="nearest: sample-bls2017-smoke-uniform"):
        chain.experiment("sample-bls2017-smoke-unifrom-l0.013")


def test_nodes_of_one_storage_share_units_and_what_was_made_last(chain: Chain, tmp_path: Path) -> None:
    profile = Profile.model_construct(name="cluster", storage=f"memory://{tmp_path.name}/fovea")
    data = UPath(f"{profile.storage}/data")
    first, second = (Chain(Home(tmp_path / name, tmp_path, data, profile), STAGES) for name in ("one", "two"))
    assert first.home.shared is not None
    first.make("grow", "p")
    made = second.make("grow", "p")
    assert made.hit and SETTINGS["made"] == 1
    assert (made.folder / "value").read_text() == "0.0001"
    assert second.all_latest("grow") == first.all_latest("grow") != []
    SETTINGS["lr"] = 2e-4
    second.forget()
    assert "lr 0.0001 → 0.0002" in second.why("grow", "p")
    assert not (tmp_path / "one/latest").exists()
    assert first.home.shared.listing("work") == {}
