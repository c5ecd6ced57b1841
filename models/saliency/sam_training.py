"""Training of SAM-VGG and SAM-ResNet on recorded or simulated eye movements, with the published losses.

    python -m models.saliency.sam_training sam_vgg --salicon ROOT --out DIR [--start WEIGHTS]
    python -m models.saliency.sam_training sam_vgg --pictures DIR --fixations TABLE --out DIR [--start WEIGHTS]

    picture ─ fit 240×320 ─ SAM ─ 480×640 ─┐
    map, or fixations blurred ─ fit 480×640 ┼─ 10·KL − 2·CC − NSS ─ RMSprop 1e-4
    fixations ─ scaled to 480×640, 0 or 1 ──┘

As published: the whole network trains, batch norm with the statistics of the batch, batches of one, no augmentation,
at most 10 epochs, the epoch with the least validation loss, an end after more than 3 epochs without a better one (Keras 1's patience). Other than
published, pictures come in a new order each epoch (`shuffle`). The authors started from ImageNet's VGG-16 or
ResNet-50; without `--start` everything starts from random numbers, which needs far more data.

The best epoch's weights are DIR/NAME.safetensors, ready for `models.saliency.sam_predictor.load_predictor(NAME, DIR)`. The state
lies in DIR/checkpoint; the same command goes on where it was stopped and ends with the same weights.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
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
from models.saliency.sam_weights import check_state, fill_network, load_network, sha256_of, write_weights
from models.tracking import NullRun, Run

FREEZE = {
    "none": (),
    "batch_norm": (),
    "backbone": ("backbone.",),
    "features": ("backbone.", "reduce.", "recurrent."),
}
"""What stays as it is: nothing; batch norms (statistics and scales); the backbone with them; all before the priors."""
PICTURES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class SAMConfig:
    """The recipe; defaults as published, but for `shuffle`.

    size: the input's rows and columns. sigma: of the density made from a table's fixations, as a part of the picture's
    width. checkpoint_steps: steps between two saved states (there is one after each epoch, too).
    """

    epochs: int = 10
    batch_size: int = 1
    lr: float = 1e-4
    patience: int = 3
    freeze: str = "none"
    shuffle: bool = True
    size: tuple[int, int] = INPUT_SIZE
    sigma: float = 0.03
    checkpoint_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.freeze not in FREEZE:
            raise FoveaError(f"freeze must be one of {', '.join(FREEZE)}, not {self.freeze!r}")
        if min(self.epochs, self.batch_size, self.patience, self.checkpoint_steps) < 1 or self.lr <= 0:
            raise FoveaError(
                "epochs, batch_size, patience and checkpoint_steps must be at least 1, lr above 0"
            )
        if min(self.size) < 8 or any(side % 8 for side in self.size):
            raise FoveaError(f"size must be rows and columns divisible by 8, not {self.size}")


@dataclasses.dataclass(frozen=True)
class Item:
    """One picture with what people looked at: files of SALICON's layout, or points (x, y), 1-based pixels.

    picture: a file, or H×W×3 uint8 RGB.
    """

    name: str
    picture: Path | NDArray[np.uint8] = dataclasses.field(compare=False)
    density: Path | None = None
    fixations: Path | None = None
    points: tuple[tuple[float, float], ...] = ()


# --- Data -------------------------------------------------------------------------------------------------------------


def salicon_items(root: Path, split: str) -> list[Item]:
    """Items of SALICON's layout: ROOT/{images,maps,fixations}/SPLIT with equal stems, in sorted order.

    Raises FoveaError where a folder is missing or empty, or a picture has no map or no fixations.
    """
    folders = [Path(root) / kind / split for kind in ("images", "maps", "fixations")]
    for folder in folders:
        if not folder.is_dir():
            raise FoveaError(
                f"{folder}: no such folder; SALICON's layout is ROOT/{{images,maps,fixations}}/{split}"
            )
    files: list[dict[str, Path]] = [
        {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes}
        for folder, suffixes in zip(folders, (PICTURES, PICTURES, (".mat",)), strict=True)
    ]
    pictures, maps, fixations = files
    if not pictures:
        raise FoveaError(f"{folders[0]}: no pictures ({', '.join(PICTURES)})")
    for name in pictures:
        for folder, found in zip(folders[1:], (maps, fixations), strict=True):
            if name not in found:
                raise FoveaError(f"{folder}: nothing for picture {pictures[name].name}")
    return [Item(name, pictures[name], maps[name], fixations[name]) for name in sorted(pictures)]


def table_items(folder: Path, table: Path) -> list[Item]:
    """Items of a table (Parquet or CSV) with columns image, subject, x, y; x and y are 1-based pixels.

    image: file name within `folder`, with or without suffix. Raises FoveaError for a column or picture that is
    missing, and for coordinates that aren't numbers.
    """
    table = Path(table)
    try:
        frame = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table)
    except (OSError, ValueError) as error:
        raise FoveaError(f"{table}: cannot be read as a table ({error})") from error
    for column in ("image", "subject", "x", "y"):
        if column not in frame.columns:
            raise FoveaError(f"{table}: column {column} is missing (image, subject, x, y are needed)")
    if not np.isfinite(frame[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)).all():
        raise FoveaError(f"{table}: x and y must be numbers in every row")
    items = []
    for name, group in frame.groupby("image", sort=True):
        candidates = [Path(folder) / str(name), *(Path(folder) / f"{name}{suffix}" for suffix in PICTURES)]
        picture = next((path for path in candidates if path.is_file()), None)
        if picture is None:
            raise FoveaError(f"{table}: picture {name} isn't in {folder}")
        points = group[["x", "y"]].to_numpy(np.float64)
        items.append(Item(str(name), picture, points=tuple((float(x), float(y)) for x, y in points)))
    if not items:
        raise FoveaError(f"{table}: no rows")
    return items


def split_items(items: Sequence[Item], val_fraction: float) -> tuple[list[Item], list[Item]]:
    """Training and validation items, by a hash of the name: the same everywhere, whatever else is in the table."""
    train: list[Item] = []
    val: list[Item] = []
    for item in items:
        draw = int.from_bytes(hashlib.sha256(item.name.encode()).digest()[:8], "big") / 2**64
        (val if draw < val_fraction else train).append(item)
    if not train or not val:
        raise FoveaError(f"{len(items)} pictures leave no training or no validation part at {val_fraction}")
    return train, val


def read_fixation_map(path: Path) -> NDArray[np.uint8]:
    """Binary H×W map of a SALICON .mat file: its matrix "I", or the fixations of all observers in its "gaze".

    Raises FoveaError for a file without either.
    """
    try:
        content = loadmat(path)
    except (MatReadError, zlib.error, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise FoveaError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    if "I" in content:
        fixations = np.asarray(content["I"])
        if fixations.ndim != 2 or fixations.dtype.kind not in "buif":
            raise FoveaError(
                f'{path}: "I" must be a matrix of numbers, not {fixations.dtype} {fixations.shape}'
            )
        return (fixations != 0).astype(np.uint8)
    try:
        height, width = (int(side) for side in content["resolution"].ravel()[:2])
        points = [np.asarray(p, np.float64).reshape(-1, 2) for p in content["gaze"]["fixations"].ravel()]
        return mark_points(np.concatenate(points), height, width)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FoveaError(f'{path}: has neither the fixation map "I" nor SALICON\'s "gaze"') from error


def mark_points(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """Points (x, y), 1-based pixels, as a binary H×W map: rounded, then held inside."""
    fixations = np.zeros((height, width), np.uint8)
    x, y = np.round(points.T).astype(np.int64) - 1
    fixations[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] = 1
    return fixations


def make_sample(
    item: Item, config: SAMConfig
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Picture (H×W×3 RGB, its own size), density in [0, 1] and binary fixations, both at twice the input's size."""
    rgb = _read_rgb(item.picture) if isinstance(item.picture, Path) else np.asarray(item.picture)
    rows, columns = (OUTPUT_SCALE * side for side in config.size)
    if item.fixations is not None:
        fixations = read_fixation_map(item.fixations)
    else:
        fixations = mark_points(np.array(item.points, np.float64), *rgb.shape[:2])
    density = _read_density(item.density) if item.density is not None else None
    if density is None:
        # Scaled and rounded like the maps that come as files.
        blurred = gaussian_filter(fixations.astype(np.float64), config.sigma * rgb.shape[1])
        density = np.rint(255 * blurred / max(float(blurred.max()), 1e-300)).astype(np.uint8)
    target = pad_picture(density, rows, columns).astype(np.float32) / np.float32(255)
    return rgb, target, pad_fixations(fixations, rows, columns)


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FoveaError(f"{path}: cannot be read as a picture")
    return np.asarray(picture[:, :, ::-1], np.uint8)


def _read_density(path: Path) -> NDArray[np.uint8]:
    density = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if density is None:
        raise FoveaError(f"{path}: cannot be read as a map")
    return np.asarray(density, np.uint8)


def make_batch(
    items: Sequence[Item], config: SAMConfig, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Network input N×3×H×W, densities and fixations N×1×2H×2W float32."""
    pictures, densities, fixations = zip(*(make_sample(item, config) for item in items), strict=True)
    return (
        preprocess(pictures, config.size, device),
        torch.from_numpy(np.stack(densities))[:, None].to(device),
        torch.from_numpy(np.stack(fixations))[:, None].to(device, torch.float32),
    )


# --- Training ---------------------------------------------------------------------------------------------------------


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


def set_frozen(network: SAM, freeze: str) -> None:
    """Training mode, with the frozen parts' parameters out of it (see FREEZE) and their batch norms' statistics held."""
    network.train()
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(not key.startswith(FREEZE[freeze]))
    if freeze != "none":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                module.requires_grad_(False)


def weights_of(network: SAM) -> dict[str, Tensor]:
    """The tensors that weight files hold, on the CPU."""
    state = network.state_dict()
    return {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }


@dataclasses.dataclass
class Progress:
    """Where training stands: `step` batches of `epoch` are done."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best: float = math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)


def _losses(network: SAM, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
    x, density, fixations = batch
    prediction = network(x)
    kl, cc, nss = (
        kl_loss(prediction, density).mean(),
        cc_loss(prediction, density).mean(),
        nss_loss(prediction, fixations).mean(),
    )
    dead = (prediction.amax((1, 2, 3)) <= 0).float().mean()
    loss = kl + cc + nss
    return loss, {
        "loss": loss.item(),
        "kl": kl.item(),
        "cc": cc.item(),
        "nss": nss.item(),
        "dead": dead.item(),
    }


@torch.inference_mode()
def validate(
    network: SAM, items: Sequence[Item], config: SAMConfig, device: torch.device
) -> dict[str, float]:
    """Means over the pictures of the loss, its three parts (weights included) and the share of dead maps."""
    network.eval()
    sums: dict[str, float] = {}
    for batch in _batches(items, config, None):
        _, values = _losses(network, make_batch(batch, config, device))
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value * len(batch)
    return {key: value / len(items) for key, value in sums.items()}


def _batches(items: Sequence[Item], config: SAMConfig, epoch: int | None) -> Iterator[list[Item]]:
    """Every item once; in a new order for each epoch where `shuffle` is set and this is training."""
    order = list(range(len(items)))
    if epoch is not None and config.shuffle:
        order = np.random.default_rng((config.seed, epoch)).permutation(len(items)).tolist()
    for start in range(0, len(order), config.batch_size):
        yield [items[k] for k in order[start : start + config.batch_size]]


def _identity(
    name: str, train: Sequence[Item], val: Sequence[Item], config: SAMConfig, start: Path | None
) -> str:
    """What a checkpoint belongs to. More epochs or other checkpoint intervals continue the same training."""
    fields = dataclasses.asdict(config)
    del fields["epochs"], fields["checkpoint_steps"]
    names = [[(item.name, item.points) for item in items] for items in (train, val)]
    text = json.dumps([name, fields, names, sha256_of(start) if start else None])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(
    folder: Path, identity: str, network: SAM, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write DIR/checkpoint as a whole: a new folder beside it first, then the exchange."""
    beside, old = folder.with_name(".checkpoint-new"), folder.with_name(".checkpoint-old")
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(weights_of(network), beside / "weights.safetensors")
    torch.save(optimiser.state_dict(), beside / "optimiser.pt")
    record = {"identity": identity, "progress": dataclasses.asdict(progress)}
    (beside / "progress.json").write_text(json.dumps(record))
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _resume(folder: Path, identity: str, network: SAM, device: torch.device) -> tuple[Progress, dict]:
    old = folder.with_name(".checkpoint-old")
    if not folder.exists() and old.exists():  # stopped between the two renames
        old.rename(folder)
    try:
        record = json.loads((folder / "progress.json").read_text())
        state = load_file(folder / "weights.safetensors")
        optimiser = torch.load(folder / "optimiser.pt", map_location=device, weights_only=True)
    except FileNotFoundError:
        return Progress(), {}
    if record["identity"] != identity:
        raise FoveaError(
            f"{folder}: belongs to another training (recipe, start weights or data differ): choose another folder "
            "or delete it"
        )
    check_state(network, state, folder / "weights.safetensors")
    fill_network(network, state)
    return Progress(**record["progress"]), optimiser


def train(
    name: str,
    train_items: Sequence[Item],
    val_items: Sequence[Item],
    out: Path,
    config: SAMConfig | None = None,
    *,
    start: Path | None = None,
    device: torch.device | str = "cpu",
    run: Run | None = None,
    max_steps: int | None = None,
) -> Path | None:
    """Train "sam_vgg" or "sam_resnet"; returns `out/NAME.safetensors`, the weights of the best validation epoch.

    start: a safetensors file of the same network. run: gets the losses per epoch, as `train/kl`, `val/loss`, …
    max_steps: stop after so many steps of this call, with the state saved; then the result is None. Calling again
    with the same arguments goes on from the saved state. Raises FoveaError for unreadable data, a saved state of
    another training, or a loss that isn't finite.
    """
    config = config or SAMConfig()
    device = torch.device(device)
    run = run or NullRun()
    if name not in NETWORKS:
        raise FoveaError(f"unknown network {name!r}: one of {', '.join(NETWORKS)}")
    if not train_items or not val_items:
        raise FoveaError("training needs at least one training and one validation picture")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint"
    identity = _identity(name, train_items, val_items, config, start)

    network = load_network(name, start) if start is not None else initialise(name, config.seed)
    progress, optimiser_state = _resume(checkpoint, identity, network, device)
    network.to(device)
    set_frozen(network, config.freeze)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.RMSprop(trainable, lr=config.lr, alpha=0.9, eps=1e-8)
    if optimiser_state:
        optimiser.load_state_dict(optimiser_state)
    run.log_params({"network": name, "pictures": len(train_items), **dataclasses.asdict(config)})

    taken = 0
    while progress.epoch < config.epochs and progress.epoch - progress.best_epoch - 1 <= config.patience:
        set_frozen(network, config.freeze)
        for index, batch in enumerate(_batches(train_items, config, progress.epoch)):
            if index < progress.step:
                continue
            loss, values = _losses(network, make_batch(batch, config, device))
            if not math.isfinite(values["loss"]):
                raise FoveaError(
                    f"{name}: the loss is {values['loss']} at {batch[0].name}: try a smaller lr or freeze"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            for key, value in values.items():
                progress.sums[key] = progress.sums.get(key, 0.0) + value * len(batch)
            progress.step += 1
            taken += 1
            if max_steps is not None and taken >= max_steps:
                _save(checkpoint, identity, network, optimiser, progress)
                return None
            if progress.step % config.checkpoint_steps == 0:
                _save(checkpoint, identity, network, optimiser, progress)
        means = {f"train/{key}": value / len(train_items) for key, value in progress.sums.items()}
        means |= {f"val/{k}": v for k, v in validate(network, val_items, config, device).items()}
        if not math.isfinite(means["val/loss"]):
            raise FoveaError(
                f"{name}: the validation loss is {means['val/loss']}: try a smaller lr or freeze"
            )
        progress.history.append(means)
        run.log_metrics([(progress.epoch, means)])
        if means["val/loss"] < progress.best:
            progress.best, progress.best_epoch = means["val/loss"], progress.epoch
            about = {
                "epoch": progress.epoch,
                "val": means,
                "config": dataclasses.asdict(config),
                "inference": {"size": list(config.size), "sigma": BLUR_SIGMA},
                "trained_on": {"pictures": len(train_items), "identity": identity},
            }
            write_weights(name, weights_of(network), out, about)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        _save(checkpoint, identity, network, optimiser, progress)
    return out / f"{name}.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """The module's command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.saliency.sam_training", description="Train SAM")
    parser.add_argument("name", choices=list(NETWORKS))
    parser.add_argument(
        "--salicon", type=Path, help="folder with images/, maps/, fixations/, each with train and val"
    )
    parser.add_argument("--pictures", type=Path, help="folder of pictures, with --fixations")
    parser.add_argument(
        "--fixations", type=Path, help="Parquet or CSV: image, subject, x, y (1-based pixels)"
    )
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, help="of the table's pictures (default 0.1)"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="safetensors file of the same network to start from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--freeze", choices=list(FREEZE), default="none")
    parser.add_argument("--sorted", action="store_true", help="pictures in sorted order, as published")
    for field, kind in (
        ("epochs", int),
        ("batch-size", int),
        ("lr", float),
        ("patience", int),
        ("seed", int),
    ):
        default = getattr(SAMConfig, field.replace("-", "_"))
        parser.add_argument(f"--{field}", type=kind, default=default, help=f"default {default}")
    parser.add_argument("--size", type=int, nargs=2, default=INPUT_SIZE, metavar=("ROWS", "COLUMNS"))
    options = parser.parse_args(arguments)
    try:
        if options.salicon is not None:
            train_items, val_items = (salicon_items(options.salicon, split) for split in ("train", "val"))
        elif options.pictures is not None and options.fixations is not None:
            train_items, val_items = split_items(
                table_items(options.pictures, options.fixations), options.val_fraction
            )
        else:
            raise FoveaError("give --salicon ROOT, or --pictures DIR and --fixations TABLE")
        config = SAMConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            patience=options.patience,
            freeze=options.freeze,
            shuffle=not options.sorted,
            size=(options.size[0], options.size[1]),
            seed=options.seed,
        )
        path = train(
            options.name,
            train_items,
            val_items,
            options.out,
            config,
            start=options.start,
            device=options.device,
            run=_Printed(),
        )
    except FoveaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


class _Printed(NullRun):
    """Prints the metrics."""

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """One line an epoch."""
        for epoch, values in rows:
            print(
                f"epoch {epoch}: " + "  ".join(f"{key} {value:.4f}" for key, value in values.items()),
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
