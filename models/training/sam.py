"""Training of SAM-VGG and SAM-ResNet on recorded eye movements, with the published losses.

    picture ─ fit 240×320 ─ SAM ─ 480×640 ───────────────────┐
    fixations ─ blurred ─ fit 480×640 ───────────────────────┼─ 10·KL − 2·CC − NSS ─ RMSprop 1e-4
    fixations ─ scaled to 480×640, 0 or 1 ───────────────────┘

As published: the whole network trains, batch norm with the statistics of the batch, batches of one, no augmentation,
at most 10 epochs, the epoch with the least validation loss, an end after more than 3 epochs without a better one (Keras 1's
patience). Other than published, pictures come in a new order each epoch. The authors started from ImageNet's
VGG-16 or ResNet-50; without `start` everything starts from random numbers, which needs far more data.
"""

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from models.errors import FoveaError
from models.saliency.sam import (
    BLUR_SIGMA,
    INPUT_SIZE,
    NETWORKS,
    OUTPUT_SCALE,
    SAM,
    AttentiveConvLSTM,
    LearnedPrior,
    build,
)
from models.saliency.sam_losses import cc_loss, kl_loss, nss_loss
from models.saliency.sam_predictor import pad_fixations, pad_picture, preprocess
from models.saliency.sam_weights import load_network, write_weights
from models.training.epochs import Epochs
from models.training.loop import Move
from models.training.ranks import Ranks
from models.weights import sha256_of


@dataclasses.dataclass(frozen=True)
class SAMConfig:
    """The recipe; defaults as published. size: the input's rows and columns. sigma: of the density made from the fixations,
    as a part of the picture's width."""

    epochs: int = 10
    batch_size: int = 1
    lr: float = 1e-4
    patience: int = 3
    size: tuple[int, int] = INPUT_SIZE
    sigma: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience) < 1 or self.lr <= 0:
            raise FoveaError("epochs, batch_size and patience must be at least 1, lr above 0")
        if min(self.size) < 8 or any(side % 8 for side in self.size):
            raise FoveaError(f"size must be rows and columns divisible by 8, not {self.size}")


@dataclasses.dataclass(frozen=True)
class Item:
    """One picture (H×W×3 uint8 RGB) with what people looked at: points (x, y), 1-based pixels."""

    name: str
    picture: NDArray[np.uint8] = dataclasses.field(compare=False)
    points: tuple[tuple[float, float], ...]


def mark_points(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """Points (x, y), 1-based pixels, as a binary H×W map: rounded, then held inside."""
    fixations = np.zeros((height, width), np.uint8)
    x, y = np.round(points.T).astype(np.int64) - 1
    fixations[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] = 1
    return fixations


def make_sample(item: Item, config: SAMConfig) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Picture (H×W×3 RGB, its own size), density in [0, 1] and binary fixations, both at twice the input's size."""
    height, width = item.picture.shape[:2]
    rows, columns = (OUTPUT_SCALE * side for side in config.size)
    fixations = mark_points(np.array(item.points, np.float64), height, width)
    blurred = gaussian_filter(fixations.astype(np.float64), config.sigma * width)
    # scaled and rounded like the maps that SALICON has as files
    density = np.rint(255 * blurred / max(float(blurred.max()), 1e-300)).astype(np.uint8)
    target = pad_picture(density, rows, columns).astype(np.float32) / np.float32(255)
    return item.picture, target, pad_fixations(fixations, rows, columns)


def make_batch(items: Sequence[Item], config: SAMConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Network input N×3×H×W, densities and fixations N×1×2H×2W float32."""
    pictures, densities, fixations = zip(*(make_sample(item, config) for item in items), strict=True)
    return (
        preprocess(pictures, config.size, device),
        torch.from_numpy(np.stack(densities))[:, None].to(device),
        torch.from_numpy(np.stack(fixations))[:, None].to(device, torch.float32),
    )


def initialise(name: str, seed: int) -> SAM:
    """A network of random numbers: the published initial values for the head, He's normal for the backbone."""
    torch.manual_seed(seed)
    network = build(name).to_empty(device="cpu")
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert not module.weight.is_meta
            if path.startswith("backbone."):
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
        elif isinstance(module, LearnedPrior):
            module.reset()
    for module in network.modules():
        if isinstance(module, AttentiveConvLSTM):
            module.reset()
    return network


def weights_of(network: SAM) -> dict[str, Tensor]:
    """The tensors that weight files hold, on the CPU."""
    state = network.state_dict()
    return {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }


NUMBERS = ("loss", "kl", "cc", "nss", "dead")


def _losses(network: SAM, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss, and the means of NUMBERS over the batch, detached: the parts with their weights; the share of dead maps."""
    x, density, fixations = batch
    prediction = network(x)
    kl, cc = kl_loss(prediction, density).mean(), cc_loss(prediction, density).mean()
    nss = nss_loss(prediction, fixations).mean()
    dead = (prediction.amax((1, 2, 3)) <= 0).float().mean()
    loss = kl + cc + nss
    return loss, torch.stack((loss, kl, cc, nss, dead)).detach()


@torch.inference_mode()
def validate(network: SAM, items: Sequence[Item], config: SAMConfig, device: torch.device) -> dict[str, float]:
    """Means of NUMBERS over the pictures."""
    network.eval()
    total = torch.zeros(len(NUMBERS), dtype=torch.float64)
    for batch in _batches(items, config, None):
        total += _losses(network, make_batch(batch, config, device))[1].double().cpu() * len(batch)
    return dict(zip(NUMBERS, (total / len(items)).tolist(), strict=True))


def _batches(items: Sequence[Item], config: SAMConfig, epoch: int | None) -> Iterator[list[Item]]:
    """Every item once; in a new order for each epoch of training."""
    order = list(range(len(items)))
    if epoch is not None:
        order = np.random.default_rng((config.seed, epoch)).permutation(len(items)).tolist()
    for start in range(0, len(order), config.batch_size):
        yield [items[k] for k in order[start : start + config.batch_size]]


class SamTraining(Epochs):
    """SAM on pictures with fixations. name: sam_vgg or sam_resnet. start: a safetensors file of the same network. Raises
    FoveaError for an unknown name and where there are no pictures."""

    names = NUMBERS
    shown = ("loss", "kl", "cc", "nss", "val/loss")
    mark = "/"
    #: a loss that is not finite has spoilt the batch norms' statistics already
    most_skipped = 1

    def __init__(
        self,
        name: str,
        train_items: Sequence[Item],
        val_items: Sequence[Item],
        config: SAMConfig | None = None,
        *,
        start: Path | None = None,
    ):
        super().__init__()
        self.name, self.train, self.val = name, list(train_items), list(val_items)
        self.config, self.start = config or SAMConfig(), start
        if name not in NETWORKS:
            raise FoveaError(f"unknown network {name!r}: one of {', '.join(NETWORKS)}")
        if not train_items or not val_items:
            raise FoveaError("training needs at least one training and one validation picture")
        self.record = {"variant": name, **dataclasses.asdict(self.config)}
        self.batches: list[list[Item]] = []
        self.batch = self.config.batch_size
        self.row_every = -(-len(self.train) // self.batch)
        self.steps = self.config.epochs * self.row_every

    def prepare(self, device: torch.device, ranks: Ranks) -> None:
        name, config = self.name, self.config
        network = load_network(name, self.start) if self.start else initialise(name, config.seed)
        self.device, self.network = device, network.to(device)
        self.networks, self.averaged, self.average = {"network": network}, [], []
        self.parameters = [*network.requires_grad_(True).parameters()]
        self.optimisers = {"main": torch.optim.RMSprop(self.parameters, lr=config.lr, alpha=0.9, eps=1e-8)}

    def identity(self) -> str:
        """Network, recipe, pictures' names, fixations and start. More epochs continue the same training."""
        fields = dataclasses.asdict(self.config)
        del fields["epochs"]
        names = [[(item.name, item.points) for item in items] for items in (self.train, self.val)]
        text = json.dumps([self.name, fields, names, sha256_of(self.start) if self.start else None])
        return hashlib.sha256(text.encode()).hexdigest()

    def moves(self, step: int) -> Iterator[Move]:
        epoch, place = divmod(step, self.row_every)
        if place == 0 or not self.batches:
            self.network.train()
            self.batches = list(_batches(self.train, self.config, epoch))
        batch = self.batches[place]
        loss, numbers = _losses(self.network, make_batch(batch, self.config, self.device))
        share = len(batch) * self.row_every / len(self.train)
        yield Move(loss, self.optimisers["main"], self.parameters, 0.0, share * numbers)

    def about(self, step: int) -> str:
        """The pictures."""
        return "its batch: " + ", ".join(item.name for item in self.batches[step % self.row_every])

    def chosen(self) -> SAM:
        return copy.deepcopy(self.network).eval()

    def validated(self) -> tuple[dict[str, float], Mapping[str, Tensor]]:
        """See Epochs. Raises FoveaError where the loss isn't finite."""
        means = validate(self.network, self.val, self.config, self.device)
        if not math.isfinite(means["loss"]):
            raise FoveaError(f"{self.name}: the validation loss is {means['loss']}: try a smaller lr")
        return means, weights_of(self.network)

    def score(self, row: Mapping[str, float]) -> float:
        return -row["val/loss"]

    def out_of_patience(self) -> bool:
        """Whether more than `patience` epochs have passed since the best."""
        return len(self.history) - 1 - self.best_epoch() > self.config.patience

    def write(self, folder: Path) -> Path:
        """NAME.safetensors and its JSON, ready for `models.saliency.sam_predictor.load_predictor`."""
        about = {
            "epoch": self.best_epoch(),
            "val": self.history[self.best_epoch()],
            "config": dataclasses.asdict(self.config),
            "inference": {"size": list(self.config.size), "sigma": BLUR_SIGMA},
            "trained_on": {"pictures": len(self.train), "identity": self.identity()},
        }
        return write_weights(self.name, {k: v.cpu() for k, v in self.best.items()}, folder, about)
