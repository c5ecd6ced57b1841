import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

import assets.chain as chain_module
from assets.chain import Chain, explain
from assets.graph import Need, NotGivenError, Part, Stage, Task, View, Waiting
from assets.home import Home
from assets.settings import Profile
from assets.world import World
from models.errors import FoveaError

SETTINGS: dict[str, Any] = {}


class Grow(Stage):
    """Makes a file from a setting; counts how often."""

    name = "grow"

    def inputs(self, view: View) -> Mapping[str, Any]:
        return {"record": {"lr": SETTINGS["lr"], **SETTINGS.get("more", {})}}

    def part(self, view: View, name: str) -> Part:
        return Part(SETTINGS[name], str(SETTINGS[name]))

    def make(self, task: Task) -> None:
        SETTINGS["made"] = SETTINGS.get("made", 0) + 1
        if SETTINGS.get("fail"):
            task.writer.path("half").write_text("half")
            raise FoveaError("no luck")
        task.writer.path("value").write_text(str(SETTINGS["lr"]))
        task.writer.meta["facts"] = {"lr": SETTINGS["lr"]}


class Weigh(Stage):
    """Shows only once it is made what its key would be."""

    name = "weigh"
    reads = ("grow",)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need("grow", partition)]

    def part(self, view: View, name: str) -> Part:
        weight = (view.mine().folder / "weight").read_text()
        return Part(weight, weight)

    def make(self, task: Task) -> None:
        task.writer.path("weight").write_text((task.given["grow"].folder / "value").read_text())


class Harvest(Stage):
    """Needs a part of what Weigh made, and of Grow what does not change with the setting."""

    name = "harvest"
    reads = ("grow", "weigh")

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need("weigh", partition, "weight"), Need("grow", partition, "steady")]

    def make(self, task: Task) -> None:
        asked = SETTINGS.get("opens", ("weigh", "weight"))
        task.writer.path("value").write_text(str(task.given[asked[0]].part(asked[1])))


class Count(Stage):
    """Uses what there is of Grow."""

    name = "count"
    reads = ("grow",)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need("grow", p, optional=True) for p in "pq"]

    def make(self, task: Task) -> None:
        task.writer.path("value").write_text(str(len(task.given.all("grow"))))


STAGES = {"grow": Grow(), "weigh": Weigh(), "harvest": Harvest(), "count": Count()}


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    SETTINGS.clear()
    SETTINGS.update(lr=1e-4, steady=7, hidden=8)
    version = functools.cache(lambda *modules, apart=(): "c0de")  # these stages are in no package of ours
    monkeypatch.setattr(chain_module, "code_version", version)
    monkeypatch.setattr(chain_module, "code_modules", lambda *_, **__: dict(SETTINGS.get("modules", {})))
    return Chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")), STAGES)


def test_a_changed_setting_is_stale_and_says_why_and_going_back_finds_the_earlier_result(chain: Chain) -> None:
    chain.make("grow", "p")
    SETTINGS["lr"] = 2e-4
    chain.forget()
    assert not chain.ready("grow", "p") and chain.why("grow", "p") == "lr 0.0001 → 0.0002"
    assert not chain.make("grow", "p").hit
    SETTINGS["lr"] = 1e-4
    chain.forget()
    assert chain.why("grow", "p") == "" and chain.moved("grow", "p"), "another one was made last"
    last = chain.latest("grow", "p")
    assert chain.make("grow", "p").hit and not chain.moved("grow", "p") and SETTINGS["made"] == 2
    again = chain.latest("grow", "p")
    assert last is not None and again is not None
    assert again["earlier"] == [last["key"]] and last["earlier"] == [again["key"]]


def test_what_was_never_made_is_held_against_the_nearest(chain: Chain) -> None:
    for partition, lr, seed in (("p", 1e-4, 0), ("q", 2e-4, 3), ("r", 1e-4, 1)):
        SETTINGS.update(lr=lr, more={"seed": seed, "a": 1, "b": 2, "c": 3, "d": 4})
        chain.forget()
        chain.make("grow", partition)
    nearest = "never made; the nearest has other values: "
    for lr, more, said in (
        (3e-4, {"seed": 0}, f"{nearest}lr 0.0001 → 0.0003"),
        (2e-4, {"seed": 3, "a": 5}, f"{nearest}a 1 → 5"),
        (2e-4, {"seed": 1, "a": 5}, f"{nearest}a 1 → 5, lr 0.0001 → 0.0002"),
        (1e-4, {"seed": 2}, "never made"),
        (1e-4, {"seed": 0, "a": 2, "b": 3, "c": 4, "d": 5}, "never made"),
    ):
        SETTINGS.update(lr=lr, more={"a": 1, "b": 2, "c": 3, "d": 4, **more})
        chain.forget()
        assert chain.why("grow", "other") == said


def test_what_tells_a_story_is_made_again_when_it_is_found_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grow, "tells", True)
    for lr, made in ((1e-4, 1), (2e-4, 2), (1e-4, 3), (1e-4, 3)):
        SETTINGS["lr"] = lr
        chain.forget()
        chain.make("grow", "p")
        assert SETTINGS["made"] == made


def test_a_unit_waits_for_what_it_is_made_from(chain: Chain) -> None:
    assert chain.why("harvest", "p") == "waits for weigh of p"
    with pytest.raises(Waiting, match="weigh of p has to be made first"):
        chain.make("harvest", "p")
    with pytest.raises(Waiting, match="grow of p has to be made first"):
        chain.make("weigh", "p")
    for stage, partition in chain.upstream(("harvest", "p")):
        assert not chain.make(stage, partition).hit
    assert chain.why("harvest", "p") == ""


def test_a_part_that_stays_keeps_what_is_made_from_it_fresh(chain: Chain) -> None:
    for stage, partition in chain.upstream(("harvest", "p")):
        chain.make(stage, partition)
    SETTINGS["hidden"] = 9
    chain.forget()
    assert chain.why("harvest", "p") == ""
    SETTINGS["steady"] = 8
    chain.forget("grow", "p")
    assert chain.why("harvest", "p") == 'grow steady "7" → "8"'


@pytest.mark.parametrize(
    ("opens", "said"),
    [
        (("rd_points", "x"), "harvest p: needs.. names no artifact of rd_points"),
        (("grow", "hidden"), "part 'hidden' of grow p is not among the needs .'steady'"),
    ],
)
def test_a_stage_that_opens_what_it_did_not_name_fails(chain: Chain, opens: tuple[str, str], said: str) -> None:
    SETTINGS["opens"] = opens
    chain.make("grow", "p")
    chain.make("weigh", "p")
    with pytest.raises(NotGivenError, match=said):
        chain.make("harvest", "p")
    assert not chain.ready("harvest", "p")


def test_a_need_that_the_drawn_graph_does_not_have_is_refused(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Harvest, "reads", ("weigh",))
    with pytest.raises(NotGivenError, match=r"names grow, which harvest\.reads does not"):
        chain.unit("harvest", "p")


def test_what_makes_an_artifact_is_in_its_key(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of `make` itself, and what the stage names beside it."""
    asked = []
    monkeypatch.setattr(chain_module, "code_version", lambda *names, apart=(): asked.append((names, apart)) or "c")
    monkeypatch.setattr(Grow, "code", lambda self, world, partition: ("models.losses",))
    chain.unit("grow", "p")
    assert asked == [((Grow.__module__, "models.losses"), ())]


def test_a_failure_leaves_the_unit_unmade(chain: Chain) -> None:
    SETTINGS["fail"] = True
    with pytest.raises(FoveaError, match="no luck"):
        chain.make("grow", "p")
    assert not chain.ready("grow", "p")
    SETTINGS["fail"] = False
    assert not chain.make("grow", "p").hit


def test_a_failed_check_is_not_forgotten_and_what_failed_it_is_not_used(chain: Chain) -> None:
    unit = chain.make("grow", "p").unit
    before = chain.unit("count", "r").digest
    chain.note_failed(unit, "check colour failed: a.png is black")
    for later in (chain, Chain(chain.home, STAGES)):
        later.forget()
        assert later.why("grow", "p") == "check colour failed: a.png is black"
        assert later.unit("count", "r").digest != before
        assert (later.make("count", "r").folder / "value").read_text() == "0"
        with pytest.raises(FoveaError, match="grow of p is not fit to be used: check colour failed"):
            later.make("weigh", "p")
    assert chain.make("grow", "p").hit  # its check is tried again
    chain.note_failed(unit, "")
    chain.forget()
    assert chain.why("grow", "p") == "" and chain.unit("count", "r").digest == before


def test_a_result_that_was_deleted_is_made_again(chain: Chain) -> None:
    made = chain.make("grow", "p")
    (made.folder / "manifest.json").unlink()
    assert chain.why("grow", "p") == "its result is no longer in the store" and not chain.make("grow", "p").hit


def test_a_lock_that_is_held_is_named(chain: Chain) -> None:
    with chain.home.locked("tables"):
        other = Chain(chain.home, STAGES)
        with pytest.raises(FoveaError, match="tables is held"), other.home.locked("tables", timeout=0):
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
    assert [w.exitcode for w in workers] == [0, 0] and chain.make("grow", "p").hit


def test_explanations() -> None:
    before = {"record": {"lr": 1, "steps": 5}, "code": "x", "train_frames": "0" * 32, "lmbda": [0.1]}
    now = {"record": {"lr": 2, "steps": 5}, "code": "y", "train_frames": "1" * 32, "lmbda": [0.2]}
    assert explain(before, now) == ["code changed (x → y)", "lmbda [0.1] → [0.2]", "lr 1 → 2", "train frames changed"]
    assert explain(now, now) == [] and explain({"rd_points": "0" * 32}, {}) == ["rd points: not here yet"]
    assert explain({"code": "x"}, {"code": "y"}, list("abcde")) == ["code changed (a, b, c and 2 more)"]


def test_code_that_was_edited_is_named(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    SETTINGS["modules"] = {"assets.grow": "1", "models.soil": "1"}
    chain.make("grow", "p")
    SETTINGS["modules"] = {"assets.grow": "1", "models.soil": "2", "models.water": "1"}
    monkeypatch.setattr(chain_module, "code_version", lambda *_, **__: "other")
    chain.forget()
    assert chain.why("grow", "p") == "code changed (models.soil, models.water)"


def test_unknown_names_are_clear(tmp_path: Path) -> None:
    chain = Chain(Home(tmp_path / "home", tmp_path, UPath(tmp_path / "home/data")), STAGES)
    with pytest.raises(FoveaError, match="unknown dataset 'moon'; known: sample, cityscapes"):
        chain.world.dataset("moon")
    with pytest.raises(FoveaError, match=r"nearest: l0\.013-bls2017-sample-smoke"):
        chain.world.experiment("l0.013-bls2017-sample-smoke-from=shipped-bls2017-unifrom")


def test_nodes_of_one_storage_share_units_and_what_was_made_last(chain: Chain, tmp_path: Path) -> None:
    profile = Profile.model_construct(name="cluster", storage=f"memory://{tmp_path.name}/fovea")
    data = UPath(f"{profile.storage}/data")
    first, second = (Chain(Home(tmp_path / name, tmp_path, data, profile), STAGES) for name in ("one", "two"))
    assert first.home.shared is not None
    first.make("grow", "p")
    made = second.make("grow", "p")
    assert made.hit and SETTINGS["made"] == 1 and (made.folder / "value").read_text() == "0.0001"
    assert second.all_latest("grow") == first.all_latest("grow") != []
    SETTINGS["lr"] = 2e-4
    second.forget()
    assert "lr 0.0001 → 0.0002" in second.why("grow", "p") and not (tmp_path / "one/latest").exists()
    assert first.home.shared.listing("work") == {}
