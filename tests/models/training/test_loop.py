import json
import math
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trainings import LMBDA, driven, made_codec, train_here
from trainings import frames as made_frames
from trainings import record as made_record

from models.codecs.base import CodecConfig
from models.codecs.bls2017 import Bls2017
from models.codecs.catalogue import load_codec
from models.codecs.conditioning import centre
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.presets import shipped_presets
from models.tracking import Run
from models.training import rate_distortion
from models.training.data import Crops, FrameSet
from models.training.exact import SeededNoise
from models.training.loop import Diverged, TrainingStopped
from models.training.ranks import joined
from models.training.rate_distortion import Plan, RateDistortion, draw, levels_at, whole_centres


class Rows(Run):
    def __init__(self):
        self.rows = []

    def log_metrics(self, rows):
        self.rows += rows


def bits(folder):
    return (folder / "weights.safetensors").read_bytes()


def trained(tmp_path, *, codec=None, frames=None, run=None, record=None, **options):
    objective = RateDistortion(record or made_record(), codec or made_codec(), frames or made_frames())
    return train_here(objective, tmp_path, run, **options)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    said = driven(Path(__file__).with_name("kill_driver.py"), folder)
    return folder, json.loads(said.splitlines()[-1])


def test_fresh_runs_and_those_with_companions_in_threads_and_processes_are_identical(killed):
    _, result = killed
    assert result["a"] == result["b"] == result["beside/one"] == result["process3"]
    assert result["process4"] != result["a"] != result["beside/other"]


def test_killed_at_ten_random_moments_and_resumed(killed):
    _, result = killed
    assert len(result["killed"]) >= 3 and set(result["killed"]) == {result["a"]}
    assert set(result["adversarial"]["killed"]) == {result["adversarial"]["a"]}


def test_each_step_once_in_the_tracker_after_kills(killed):
    folder, result = killed
    kept = {}
    for name in ("a", *(f"killed{i}" for i in range(len(result["killed"])))):
        own = kept[name] = {}
        for line in (folder / name / "journal").read_text().splitlines():
            step, values = json.loads(line)
            for key, value in values.items():
                if key != "images_per_s":
                    # a tracker keeps the first value of a (name, step): a repeated one must say the same
                    assert own.setdefault((key, step), value) == value
    undisturbed = kept["a"]
    assert all(own == undisturbed for own in kept.values())
    assert {s for k, s in undisturbed if k == "loss"} == {2 * i for i in range(1, 21)}
    assert {s for k, s in undisturbed if k == "probe/first"} == {20, 40}


def test_the_artifact(tmp_path):
    run, record, seen, threads = Rows(), made_record(), [], torch.get_num_threads()
    folder = trained(tmp_path, run=run, record=record, progress=lambda *said: seen.append(said))
    assert torch.get_num_threads() == threads and not torch.are_deterministic_algorithms_enabled()
    assert seen[-1][:2] == (8, 8) and set(seen[-1][2]) == {"loss", "bpp", "psnr_db", "steps_per_s"}
    assert folder == tmp_path / "final"
    codec = load_codec(folder)
    picture = made_frames().pictures[0]
    assert np.array_equal(codec.decode(codec.encode(picture).data), codec.encode(picture).reconstruction)
    facts = json.loads((folder / "training.json").read_text())
    assert facts["record"] == record and facts["steps"] == 8 and facts["threads"] == 1
    assert facts["device"] == "cpu" and facts["mode"] == "deterministic"
    history = json.loads((folder / "history.json").read_text())
    assert [row["step"] for row in history] == list(range(1, 9))
    assert set(history[0]) == {"step", *("loss", "bpp", "mse", "psnr_db", "grad_norm", "lr", "skipped", "images_per_s")}
    assert [{"step": step, **values} for step, values in run.rows] == history
    assert not list(tmp_path.glob("*.ckpt")) and [p.name for p in tmp_path.iterdir()] == ["final"]
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    assert trained(tmp_path, progress=lambda *_: pytest.fail("trained again")) == folder
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before


def test_it_learns(tmp_path):
    y, x = np.mgrid[0:64, 0:64]
    picture = np.stack([x * 4, y * 4, 255 - x * 4], axis=2).clip(0, 255).astype(np.uint8)
    folder = trained(tmp_path, frames=FrameSet([picture]), record=made_record(steps=150, lr=3e-3, batch_size=4))
    history = json.loads((folder / "history.json").read_text())
    assert history[-1]["loss"] < 0.35 * history[0]["loss"] and history[-1]["psnr_db"] > history[0]["psnr_db"] + 4
    assert history[-1]["lr"] == pytest.approx(3e-3 * 0.05)


def test_another_training_in_the_folder_is_refused(tmp_path):
    steps = iter(range(100))
    with pytest.raises(TrainingStopped):
        trained(tmp_path, should_stop=lambda: next(steps) == 3)
    with pytest.raises(FoveaError, match="another training"):
        trained(tmp_path, record=made_record(seed=1))
    with pytest.raises(FoveaError, match="another training"):
        trained(tmp_path, frames=made_frames(seed=1))
    trained(tmp_path, record=made_record(dataset="renamed", preset="x"))


def test_a_probe_can_not_disturb(tmp_path):
    def spoiler(step, codec):
        assert not codec.training
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in codec.parameters():
                parameter.zero_()
        codec.update()
        asked.append(step)
        return {"probe/step": step} if step != 4 else {}

    run, asked = Rows(), []
    spoilt = trained(tmp_path / "a", probe=spoiler, probe_every=3, probe_at=(1, 4, 6), run=run)
    alone = trained(tmp_path / "b")
    assert bits(spoilt) == bits(alone) and asked == [1, 3, 4, 6, 8]
    # what says nothing leaves no row
    assert [s for s, values in run.rows if "probe/step" in values] == [1, 3, 6, 8]
    assert all(values for _, values in run.rows)


class Poisoned(Bls2017):
    """Its loss is not a number at the given calls."""

    bad: frozenset = frozenset()
    calls = 0

    def forward(self, x, **given):
        output = super().forward(x, **given)
        self.calls += 1
        return output._replace(x_hat=output.x_hat * math.nan) if self.calls - 1 in self.bad else output


def poisoned(bad):
    torch.manual_seed(0)
    codec = Poisoned(CodecConfig(codec="bls2017", n=4, m=6, lmbda=LMBDA))
    codec.bad = frozenset(bad)
    return codec


def test_a_step_without_a_number_is_skipped(tmp_path):
    codec = poisoned({2})
    seen = {}

    def probe(step, looked):
        seen[step] = {k: v.clone() for k, v in looked.state_dict().items()}
        return {}

    run = Rows()
    folder = trained(tmp_path / "a", codec=codec, probe=probe, probe_every=1, run=run)
    assert all(torch.equal(seen[2][k], seen[3][k]) for k in seen[2])
    assert not all(torch.equal(seen[3][k], seen[4][k]) for k in seen[2])
    assert [values["skipped"] for _, values in run.rows if "loss" in values] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert all(math.isfinite(v) for _, values in run.rows for v in values.values())
    again = trained(tmp_path / "b", codec=poisoned({2}))
    assert bits(folder) == bits(again)
    assert all(torch.isfinite(v).all() for v in load_file(folder / "weights.safetensors").values())


def test_no_number_for_long_is_an_error_that_names_the_batch(tmp_path):
    frames = made_frames(count=2)
    frames = FrameSet(frames.pictures, frames.maps, names=["north.png", "south.png"])
    with pytest.raises(Diverged, match=r"20 steps in a row, until step 22 \(lambda 0\.002, 0\.02, 0\.1.*south"):
        trained(tmp_path, codec=poisoned(range(3, 60)), frames=frames, record=made_record(steps=60))


@pytest.mark.parametrize("mechanism", ["loss", "concat", "sft", "gain"])
def test_each_mechanism_trains_and_its_map_matters(tmp_path, mechanism):
    even, uneven = (np.full((40, 47), 128, dtype=np.uint8), np.zeros((40, 47), dtype=np.uint8))
    uneven[:, :20] = 255
    pictures, found = made_frames(count=4).pictures, set()
    cases = {"even": (even, 0.0), "uneven": (uneven, 0.0)} | (
        {"augmented": (even, 1.0)} if mechanism == "concat" else {}
    )
    for name, (saliency_map, augment) in cases.items():
        frames = FrameSet(pictures, [saliency_map[:, : p.shape[1]] for p in pictures])
        record = made_record(mechanism=mechanism, steps=3, augment=augment)
        folder = trained(tmp_path / name, codec=made_codec(mechanism), record=record, frames=frames)
        found.add(bits(folder))
    assert len(found) == len(cases)


def test_layers_that_the_trunk_lacks_learn_faster(tmp_path):
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    start = made_codec("sft").state_dict()
    record = made_record(mechanism="sft", steps=1, warmup_steps=0, fresh_lr_factor=10.0)
    folder = trained(tmp_path, codec=made_codec("sft"), record=record)
    after = load_file(folder / "weights.safetensors")
    for name, times in (("transforms.0.condition.2.weight", 10), ("g_a.0.weight", 1)):
        moved = float((after[name] - start[name]).abs().max())
        assert moved == pytest.approx(times * record["lr"], rel=1e-3)


def test_a_level_that_is_no_number_skips_the_step(tmp_path):
    codec = made_codec("hyper", codec="mbt2018_mean")
    torch.nn.init.constant_(codec.h_s_level[-1].bias, math.nan)
    record = made_record(codec="mbt2018_mean", mechanism="hyper", steps=30, crop=64)
    frames = FrameSet([np.zeros((70, 70, 3), np.uint8)] * 2, [np.zeros((70, 70), np.uint8)] * 2)
    with pytest.raises(Diverged, match="20 steps in a row"):
        trained(tmp_path, codec=codec, record=record, frames=frames)


def test_constant_maps_train_as_uniform(tmp_path):
    frames = made_frames()
    constant = FrameSet(frames.pictures, [np.full_like(m, 90) for m in frames.maps])
    weighted = trained(tmp_path / "a", codec=made_codec("loss"), record=made_record(mechanism="loss"), frames=constant)
    uniform = trained(tmp_path / "b")
    a, b = (load_file(f / "weights.safetensors") for f in (weighted, uniform))
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_raw_weights_are_another_lambda(tmp_path):
    """Un-normalised weights of a constant map: 2 · (alpha + 1) times lambda, exactly the gradient of that lambda."""
    frames = made_frames()
    constant = FrameSet(frames.pictures, [np.full_like(m, 255) for m in frames.maps])
    raw = {"mechanism": "loss", "normalised": False, "alpha": 0.0, "scale": 2.0, "lmbda": [0.01]}
    one = trained(tmp_path / "a", codec=made_codec("loss", (0.01,)), record=made_record(**raw), frames=constant)
    two = trained(tmp_path / "b", codec=made_codec(lmbda=(0.02,)), record=made_record(lmbda=[0.02]))
    a, b = (load_file(f / "weights.safetensors") for f in (one, two))
    torch.testing.assert_close(a["g_a.0.weight"], b["g_a.0.weight"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mechanism": "loss"}, r"mechanism 'loss'.*'none'"),
        ({"crop": 40}, "multiple of 16"),
        ({"batch_size": None}, "'batch_size'"),
        ({"lmbda": [5.0]}, "outside this model's range"),
    ],
)
def test_wrong_requests_are_named(tmp_path, changed, said):
    with pytest.raises(FoveaError, match=said):
        trained(tmp_path, record={k: v for k, v in made_record(**changed).items() if v is not None})


def test_a_mechanism_without_maps_is_named(tmp_path):
    given = {"codec": made_codec("loss"), "record": made_record(mechanism="loss")}
    with pytest.raises(FoveaError, match="needs a saliency map"):
        trained(tmp_path, **given, frames=FrameSet(made_frames().pictures))


def test_every_preset_makes_a_plan():
    for preset, budget in shipped_presets().items():
        if budget.objective != "rate_distortion":
            continue
        own = {"codec": "bls2017", "dataset": "d", "preset": preset}
        plan = Plan.of(Trunk(**own).resolved())
        assert plan.steps == budget.trunk_steps and plan.weighting is None
        plan = Plan.of(Experiment(**own, trunk=Trunk(**own), mechanism="concat", maps="center").resolved())
        assert plan.weighting is not None and plan.steps == budget.steps


def test_schedule():
    plan = Plan.of(made_record(steps=100, warmup_steps=10, lr=1.0, final_lr_factor=0.1))
    rates = [plan.lr_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1 and rates[99] == pytest.approx(0.1) and all(a >= b for a, b in pairwise(rates[9:]))


def test_levels_cover_the_range_in_each_batch():
    plan, codec = Plan.of(made_record(batch_size=8)), made_codec()
    drawn = np.stack([levels_at(plan, codec, step) for step in range(200)])
    assert drawn.min() >= 0 and drawn.max() <= 2
    assert (np.sort(drawn)[:, 0] < 0.25).all() and (np.sort(drawn)[:, -1] > 1.75).all()
    assert np.array_equal(drawn[7], levels_at(plan, codec, 7)) and not np.array_equal(drawn[7], drawn[8])
    assert drawn.mean() == pytest.approx(1, abs=0.02)
    assert (levels_at(Plan.of(made_record(lmbda=[0.02])), codec, 0) == 1).all()


def test_gain_sees_whole_pictures_centres_and_some_even_batches():
    plan, codec, frames = Plan.of(made_record(mechanism="gain")), made_codec("gain"), made_frames()
    crops = Crops(frames, seed=0, batch=2, crop=32)
    centres = whole_centres(codec, frames, torch.device("cpu"))
    padded = np.pad(frames.maps[1], ((0, 8), (0, 3)), mode="edge")
    own = centre(torch.from_numpy(padded)[None, None] / 255, 0.5, 16)
    torch.testing.assert_close(centres[1:2], own)
    draws = [draw(plan, codec, crops.at(step), centres, step) for step in range(80)]
    even = [d for d in draws if d.centre is None]
    assert 8 < len(even) < 34 and all((d.saliency_map == 1).all() for d in even)
    for step, d in enumerate(draws):
        if d.centre is not None:
            torch.testing.assert_close(d.centre, centres[crops.at(step).picture])


def test_noise_is_this_threads_own():
    noise = SeededNoise(torch.device("cpu"))

    def drawn():
        with noise:
            return torch.empty(4).uniform_(-0.5, 0.5)

    noise.seed(1, 2)
    first = drawn()
    noise.seed(1, 2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    other = []
    with noise:
        thread = threading.Thread(target=lambda: other.append(torch.rand(3)))
        thread.start()
        thread.join()
    assert not torch.equal(before, torch.get_rng_state())  # the other thread used the global generator
    assert torch.equal(drawn(), first)
    noise.seed(1, 3)
    assert not torch.equal(drawn(), first)


def test_fast_mode_is_near_the_exact_one(tmp_path, monkeypatch):
    monkeypatch.setattr(rate_distortion, "has_bfloat16", lambda device: True)
    exact = trained(tmp_path / "a", record=made_record(steps=4))
    fast = trained(tmp_path / "b", record=made_record(steps=4, mode="fast"))
    a, b = (json.loads((f / "history.json").read_text()) for f in (exact, fast))
    assert json.loads((fast / "training.json").read_text())["mode"] == "fast"
    assert [row["loss"] for row in b] != [row["loss"] for row in a]
    assert [row["loss"] for row in b] == pytest.approx([row["loss"] for row in a], rel=0.02)


def test_trimmed_crops_end_within_a_place_of_z():
    codec = made_codec("gain")
    objective = RateDistortion(made_record(mechanism="gain", crop=48, trim=2), codec, made_frames(64, 64))
    objective.prepare(torch.device("cpu"), joined())
    sides = set()
    for step in range(12):
        batch, drawn = objective.drawn(step, objective.centres)
        assert batch.x.shape[2:] == batch.s.shape[2:] == drawn.saliency_map.shape[2:]
        whole = objective.crops.at(step)
        assert torch.equal(batch.x, whole.x[..., : batch.x.shape[2], : batch.x.shape[3]])
        sides |= set(batch.x.shape[2:])
    assert sides == {16, 32, 48}
