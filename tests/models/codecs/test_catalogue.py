import importlib.util
import json

import pytest
import torch

from models.arms import arm
from models.codecs import catalogue
from models.codecs.base import CodecConfig
from models.errors import FoveaError
from models.experiments import TRUNK_LAMBDAS, Experiment, Trunk
from models.sweeps import sweep, sweep_names


def test_a_damaged_folder_is_named(tmp_path, uniform, gained):
    with pytest.raises(FoveaError, match=r"codec\.json is missing"):
        catalogue.load_codec(tmp_path)
    for codec in (gained, uniform):  # the later takes the place
        catalogue.save_codec(codec, tmp_path / "a")
    assert catalogue.load_codec(tmp_path / "a").identity() == uniform.identity()
    other = catalogue.build(uniform.config)
    other.load_trunk(uniform.weights())
    with torch.no_grad():
        other.g_s[0].bias += 0.5
    other.update()
    catalogue.save_codec(other, tmp_path / "b")
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")
    with pytest.raises(FoveaError, match="not the file that"):
        catalogue.load_codec(tmp_path / "a")
    with pytest.raises(FoveaError, match=r"weights\.safetensors is missing"):
        catalogue.load_codec(tmp_path / "b")
    weights = tmp_path / "a" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FoveaError, match="damaged"):
        catalogue.load_codec(tmp_path / "a")
    description = tmp_path / "a" / "codec.json"
    for text in ("{", "[]", json.dumps({"format": 1}), json.dumps({"format": 1, "config": {}, "identity": ""})):
        description.write_text(text)
        with pytest.raises(FoveaError):
            catalogue.load_codec(tmp_path / "a")
    description.write_text(json.dumps({"format": 2}))
    with pytest.raises(FoveaError, match="format 2"):
        catalogue.load_codec(tmp_path / "a")


def test_records_become_configurations():
    trunk = Trunk(codec="bls2017", dataset="sample", preset="tiny")
    assert catalogue.config_for(trunk) == CodecConfig(codec="bls2017", n=8, m=12, mechanism="none", lmbda=TRUNK_LAMBDAS)
    gain = Experiment(dataset="sample", codec="bls2017", preset="tiny", trunk=trunk, span=2.0, **arm("saliency_gain"))
    config = catalogue.config_for(gain)
    assert (config.mechanism, config.lmbda, config.span, config.gamma) == ("gain", trunk.lmbda, 2.0, 0.5)
    assert catalogue.branch_config(gain, catalogue.config_for(trunk)) == config
    alone = Experiment(dataset="sample", codec="bls2017", **arm("saliency_concat"))
    assert catalogue.config_for(alone).lmbda == alone.lmbda


def test_every_experiment_of_every_sweep_has_a_codec():
    for name in sweep_names():
        for record in sweep(name, "sample").experiments:
            if record.mechanism != "none":
                continue
            config = catalogue.config_for(record)
            if record.trunk and record.trunk.shipped:
                reach = config.lmbda or (1, dict(config.options)["unrolled"])
                assert reach[0] <= record.rates[0] and record.rates[-1] <= reach[-1]
            else:
                assert config.lmbda == (record.trunk or record).lmbda
            if record.rate_name == "channels":
                own = {k for k, option in record.card.options.items() if option.part == "codec"}
                assert config.m == record.rates[0] and dict(config.options).keys() == own
            assert importlib.util.find_spec(catalogue.code_module(record.codec)) is not None
    with pytest.raises(FoveaError, match="unknown codec 'jpeg'; known: agustsson2019, bls2017"):
        catalogue.code_module("jpeg")
