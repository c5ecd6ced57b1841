import copy

import pytest
import torch
from recurrent import recurrent_weights, untrained_recurrent
from trainings import context_weights, shortly_trained

from models.codecs.base import CodecConfig
from models.mechanisms import LEVELLED

LAMBDAS = (0.0016, 0.0064, 0.0256)


def trained(mechanism: str = "none", steps: int = 80, codec: str = "bls2017", **config):
    """A very small codec after a second of training, with its tables."""
    m = 32 if codec == "light" else 10  # its transforms are as wide as a part of m
    made = shortly_trained(CodecConfig(codec=codec, n=8, m=m, mechanism=mechanism, lmbda=LAMBDAS, **config), steps)
    made.update()
    return made.eval()


@pytest.fixture(scope="session")
def uniform():
    return trained()


@pytest.fixture(scope="session")
def gained():
    return trained("gain", gamma=0.5, span=1.5)


@pytest.fixture(scope="session")
def trained_codec():
    """A function: the codec of this name after a short training with a mechanism, made once."""
    made = {}

    def get(name: str, mechanism: str = "none"):
        if (name, mechanism) not in made:
            extra = {"gamma": 0.5, "span": 1.5} if mechanism in LEVELLED else {}
            made[name, mechanism] = trained(mechanism, steps=30, codec=name, **extra)
        return made[name, mechanism]

    return get


@pytest.fixture(scope="session")
def in_context(trained_codec):
    """A light codec with a context model."""
    codec = copy.deepcopy(trained_codec("light", "gain"))
    codec.add("context", context_weights(codec))
    return codec


@pytest.fixture(scope="session")
def trained_recurrent():
    """A function: a very small recurrent codec after seconds of training, with a mechanism and options."""
    weights = recurrent_weights()

    def get(mechanism: str = "none", **options):
        codec = untrained_recurrent(mechanism, **options)
        codec.load_trunk(weights)
        return codec

    return get


@pytest.fixture(scope="session")
def references():
    """CompressAI's models, moved away from where they start, with their own tables: n 8, m 12. No symbol escapes, since
    CompressAI writes escapes into the same string, which is unsafe to read back."""
    from compressai.models import google, waseda

    made = {}
    classes = [google.FactorizedPrior, google.ScaleHyperprior, google.MeanScaleHyperprior, waseda.Cheng2020Anchor]
    names = ["bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor"]
    for name, kind in zip(names, classes, strict=True):
        torch.manual_seed(1)
        model = kind(8).eval() if name == "cheng2020_anchor" else kind(8, 12).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if not key.endswith("quantiles"):
                    p.add_(0.1 * torch.randn_like(p) * (p.abs().mean() + 0.02))
            model.g_a[6].weight.mul_(80)
            if name == "cheng2020_anchor":
                model.entropy_parameters[4].bias[:8].add_(torch.linspace(20.0, 90.0, 8))
            elif name != "bmshj2018_factorized":
                model.h_a[4].weight.mul_(20)
                model.h_s[4].weight.mul_(8)
                model.h_s[4].bias[:12].add_(torch.linspace(6.0, 30.0, 12))
        model.update(force=True, update_quantiles=True)
        made[name] = model
    return made
