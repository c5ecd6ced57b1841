import pytest
from recurrent import recurrent_weights, untrained_recurrent
from trainings import shortly_trained

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
def trained_recurrent():
    """A function: a very small recurrent codec after seconds of training, with a mechanism and options."""
    weights = recurrent_weights()

    def get(mechanism: str = "none", **options):
        codec = untrained_recurrent(mechanism, **options)
        codec.load_trunk(weights)
        return codec

    return get
