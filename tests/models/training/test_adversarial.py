import json

import numpy as np
import pytest
import torch
from trainings import frames as made_frames
from trainings import generative, objective, train_here

from models.codecs.catalogue import build, config_for, load_codec
from models.errors import FoveaError
from models.training import adversarial
from models.training.adversarial_doctor import adversary, examine_training, variety
from models.training.data import FrameSet
from models.training.loop import Diverged
from models.training.rate_distortion import Plan, draw


def frames(maps=False, side=70):
    return made_frames(side, side, maps=maps)


def trained(folder, record, data=None, **hooks):
    return train_here(objective(record, data or frames()), folder, **hooks)


def test_judges_see_each_step_from_another_place(tmp_path, monkeypatch):
    record = generative(overrides={"crop": 80}, jitter=16, start=0.5)
    plan, terms = Plan.of(record.resolved()), adversarial.Terms.of(record.resolved())
    cuts = [adversarial.cut_of(plan, terms, step) for step in range(200)]
    assert cuts == [adversarial.cut_of(plan, terms, step) for step in range(200)]
    assert {a for a, _ in cuts} == {b for _, b in cuts} == set(range(16))
    assert cuts != [adversarial.cut_of(plan._replace(seed=1), terms, step) for step in range(200)]
    assert adversarial.cut_of(plan, terms._replace(jitter=1), 3) == (0, 0)

    sides = []
    forward = adversarial.Discriminators.forward

    def watched(self, x):
        sides.append(tuple(x.shape[2:]))
        return forward(self, x)

    monkeypatch.setattr(adversarial.Discriminators, "forward", watched)
    rng = np.random.default_rng(0)
    data = FrameSet([rng.integers(0, 256, (90, 90, 3), dtype=np.uint8) for _ in range(5)])
    trained(tmp_path, record, data)
    # two judged steps, each: reconstruction and picture for the generator, the two for the discriminators
    assert sides == [(80 - a, 80 - b) for a, b in cuts[2:4] for _ in range(4)]


def test_the_distortion_counts_what_the_judges_do_not_see():
    record = generative(overrides={"crop": 80}, jitter=16, matching=0.0, adversarial=0.0, perceptual=0.0).resolved()
    judges = adversarial.Judges(adversarial.Terms.of(record), 0, torch.device("cpu"))
    x = torch.rand(1, 3, 80, 80)
    y = x.clone()
    y[:, :, :5] += 0.5
    asked = {"distortion": "mse", "weight": torch.ones(1, 1, 80, 80), "judged": True}
    losses = [judges.judge(x, y, **asked, cut=cut).loss for cut in ((0, 0), (5, 3))]
    assert losses[0] == losses[1] > 0


def test_the_artifact(tmp_path):
    record, seen = generative(), []
    folder = trained(tmp_path, record, probe=lambda step, codec: seen.append((step, codec.training)) or {})
    assert seen == [(4, False)]
    facts = json.loads((folder / "training.json").read_text())
    assert facts["record"] == json.loads(json.dumps(record.resolved())) and facts["steps"] == 4
    history = [row for row in json.loads((folder / "history.json").read_text()) if "loss" in row]
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    # the first half knows the distortion alone
    assert history[1]["discriminator"] == 0 and history[1]["perceptual"] == 0
    assert history[2]["discriminator"] > 0 and history[2]["perceptual"] > 0 and history[2]["matching"] > 0
    picture = frames().pictures[0]
    codec = load_codec(folder)
    assert np.array_equal(codec.decode(codec.encode(picture).data), codec.encode(picture).reconstruction)
    assert (folder / adversarial.DISCRIMINATORS).is_file()


@pytest.mark.parametrize("name", ["weighted", "saliency_concat", "saliency_select"])
def test_the_saliency_arms_train(tmp_path, name):
    record = generative(name)
    before = build(config_for(record)).state_dict()
    folder = trained(tmp_path, record, frames(maps=True, side=40))
    after = load_codec(folder).state_dict()
    assert all(torch.isfinite(v).all() for v in after.values())
    assert any(not torch.equal(before[k], after[k]) for k in before)
    with pytest.raises(FoveaError, match="needs a saliency map"):
        trained(tmp_path / "other", record)


def test_select_weighs_what_it_keeps():
    record = generative("saliency_select")
    plan = Plan.of(record.resolved())
    codec = build(config_for(record))
    batch = adversarial.Crops(frames(maps=True), seed=0, batch=2, crop=64).at(0)
    drawn = draw(plan, codec, batch, None, 0)
    weight = adversarial.weight_of(plan, codec, batch, drawn)
    kept = codec.region(drawn.saliency_map)
    assert weight.mean() == pytest.approx(1.0)
    assert weight.amax() / weight.amin() == pytest.approx(1 / adversarial.OUTSIDE)
    assert torch.equal(torch.nn.functional.interpolate(kept, (64, 64)) > 0, weight > 1)


def test_a_training_that_loses_what_it_had_says_so(tmp_path, monkeypatch):
    smooth = np.mgrid[:70, :90].sum(axis=0)[..., None].repeat(3, axis=2).astype(np.uint8)
    record, data = generative(overrides={"steps": 60}, start=1.0), FrameSet([smooth])
    monkeypatch.setattr(adversarial, "FALLEN_STEPS", 8)
    trained(tmp_path / "sound", record, data)
    monkeypatch.setattr(Plan, "lr_at", lambda plan, step: 3e-3 if step < 45 else 30.0)
    with pytest.raises(Diverged, match=r"dB PSNR at step 4\d, .* and no step since 4\d was near: lower lr"):
        trained(tmp_path / "wild", record, data)
    assert not (tmp_path / "wild" / "final").exists()


@pytest.mark.parametrize(
    ("options", "failing"),
    [
        ({}, set()),
        ({"fault": "scale"}, {"adversary"}),
        ({"fault": "augment"}, {"variety"}),
        ({"fault": "augment+scale"}, {"adversary", "variety"}),
        # without discriminators nothing is asked about them
        ({"adversarial": 0.0, "matching": 0.0}, set()),
    ],
)
def test_the_doctor_names_the_faults_of_training(tmp_path, options, failing):
    record = generative(overrides={"steps": 2}, start=0.0, **options)
    found = {f.name: f for f in examine_training(record.resolved(), trained(tmp_path, record), frames())}
    assert found.keys() == ({"variety"} if "adversarial" in options else {"adversary", "variety"})
    assert {f.name for f in found.values() if not f.passed} == failing
    if "adversary" in failing:
        assert "1/2, 1/4" in found["adversary"].detail
    if "variety" in failing:
        assert "5 of 5 pictures are cut the same way" in found["variety"].detail


def test_pictures_of_the_crop_s_size_still_vary_by_mirroring():
    record = generative().resolved()
    plan, terms = Plan.of(record), adversarial.Terms.of(record)
    exact = FrameSet([np.zeros((64, 64, 3), np.uint8) for _ in range(8)])
    assert variety(plan, terms, exact).passed and not variety(plan, terms._replace(faults=("augment",)), exact).passed
    judges = adversarial.Judges(terms._replace(perceptual=0.0), 0, torch.device("cpu"))
    assert adversary(judges, torch.rand(1, 3, 64, 64), "mse").passed


def test_chroma_counts_what_is_off_the_grey_axis():
    """A grey error counts as it is, one in colour differences alone `chroma` times."""
    x = torch.full((1, 3, 64, 64), 0.5)
    grey = x + 0.1
    colour = x + 0.1 * torch.tensor([1.0, -1.0, 0.0])[None, :, None, None]
    record = generative(chroma=4.0).resolved()
    terms = adversarial.Terms.of(record)._replace(perceptual=0.0)

    def loss(x_hat, chroma):
        judges = adversarial.Judges(terms._replace(chroma=chroma), 0, torch.device("cpu"))
        found = judges.judge(x, x_hat, distortion="mse", weight=None, judged=False)
        return found.loss.item(), found.mse.item()

    for x_hat, times in ((grey, 1.0), (colour, 4.0)):
        (plain, mse), (heavy, same) = loss(x_hat, 1.0), loss(x_hat, 4.0)
        assert mse > 0 and mse == same and heavy == pytest.approx(times * plain, rel=1e-4)
    with pytest.raises(FoveaError, match="no field 'fidelity'"):
        adversarial.Terms.of({})
    with pytest.raises(FoveaError, match="chroma=4 weighs squared errors"):
        generative(chroma=4.0).but(distortion="ms_ssim")
    with pytest.raises(FoveaError, match="fresh_lr_factor is not for it"):
        generative(overrides={"fresh_lr_factor": 5.0})
