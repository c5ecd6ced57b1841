import numpy as np
import pytest

from models.mechanisms import LEVELLED

LAMBDAS = (0.0016, 0.0064, 0.0256)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with edges, shades and a little noise; uint8, H×W×3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40.0
    base = 128 + 60 * np.sin(x * 2 + seed) * np.cos(y * 3) + 40 * (x > 1.1) - 30 * (y > 0.7)
    colours = np.stack([base, 0.8 * base + 20 * x, 255 - base], axis=-1)
    return (colours + rng.normal(0, 4, colours.shape)).clip(0, 255).astype(np.uint8)


def spot(height: int, width: int) -> np.ndarray:
    """A saliency map with one bright place; uint8, H×W, maximum 255."""
    y, x = np.mgrid[0:height, 0:width]
    s = np.exp(-(((y - height / 3) / (height / 5 + 1)) ** 2) - ((x - width / 3) / (width / 5 + 1)) ** 2)
    return np.round(255 * s / s.max()).astype(np.uint8)


def trained(
    mechanism: str = "none", lmbda: tuple[float, ...] = LAMBDAS, steps: int = 120, codec: str = "bls2017", **config
):
    """A very small codec after a second of training, with its tables."""
    import torch

    from models.codecs import catalogue
    from models.codecs.base import CodecConfig

    torch.manual_seed(0)
    m = 32 if codec == "light" else 10  # its transforms are as wide as a part of m
    codec = catalogue.build(CodecConfig(codec=codec, n=8, m=m, mechanism=mechanism, lmbda=lmbda, **config))
    optimiser = torch.optim.Adam(codec.main_parameters(), lr=2e-3)
    x = torch.from_numpy(np.stack([scene(64, 64, seed) for seed in range(4)])).permute(0, 3, 1, 2) / 255.0
    s = torch.from_numpy(spot(64, 64))[None, None].expand(4, 1, 64, 64) / 255.0
    for _ in range(steps):
        out = codec(x, saliency_map=s, level=torch.rand(4) * codec.top_level)
        rate = sum(-torch.log2(v).sum() for v in out.likelihoods.values()) / (4 * 64 * 64)
        loss = rate + (out.lmbda * 255**2 * (out.x_hat - x).square()).mean() + torch.as_tensor(out.penalty).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.main_parameters(), 1.0)
        optimiser.step()
    codec.update()
    return codec.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors: a second thread costs more than it does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
            made[name, mechanism] = trained(mechanism, steps=50, codec=name, **extra)
        return made[name, mechanism]

    return get


@pytest.fixture(scope="session")
def trained_recurrent():
    """A function: a very small recurrent codec after seconds of training, with a mechanism and options."""
    from recurrent import recurrent_weights, untrained_recurrent

    weights = recurrent_weights()

    def get(mechanism: str = "none", **options):
        codec = untrained_recurrent(mechanism, **options)
        codec.load_trunk(weights)
        return codec

    return get
