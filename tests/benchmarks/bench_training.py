"""Training steps a second: Fovea's loop against a plain one over the same model and the same frames, in one run.

    GOMP_SPINCOUNT=1000 python tests/benchmarks/bench_training.py [--codec light] [--threads 2] [--rounds 4] [--device cuda]

(Without the variable, two OpenMP threads on two busy cores wait for each other by spinning: many times slower.)

The plain loop is what a CompressAI user writes: its FactorizedPrior, its loss, its two optimisers, gradient clipping, a
DataLoader with two workers that decodes PNG files by PIL, crops and flips, a logged loss each step. bls2017 and light,
which CompressAI does not have, are the project's own classes in both loops, in the plain one with CompressAI's GDN. Rounds
alternate and so does who begins, so that both see the same machine; each is in a forked process of its own, so that
neither inherits the other's settings, and the first one to touch a GPU. A round's set-up (workers, first steps) is not
counted. The target is 1.5 on two cores.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch._dynamo  # what every optimiser loads: once, before the forks
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.codecs.base import Codec, CodecConfig, Output
from models.codecs.catalogue import build
from models.codecs.compressai_import import GDN as CompressAIGDN
from models.codecs.layers import GDN
from models.experiments import TRUNK_LAMBDAS
from models.tracking import Run
from models.training.data import Crops, FrameSet
from models.training.loop import train
from models.training.rate_distortion import RateDistortion


def made_pictures(count: int, height: int, width: int) -> list[np.ndarray]:
    """Smooth shapes with noise: PNG files of about the size of photographs'."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noise = rng.normal(0, 4, smooth.shape).astype(np.int16)
        pictures.append((smooth + noise).clip(0, 255).astype(np.uint8))
    return pictures


OWN = ("bls2017", "light")
"""Those that CompressAI lacks: trained with variable rate, as they ship."""


def lambdas(codec: str) -> tuple[float, ...]:
    return TRUNK_LAMBDAS if codec in OWN else (0.01,)


def made_codec(options: argparse.Namespace) -> Codec:
    torch.manual_seed(0)
    config = CodecConfig(codec=options.codec, n=options.n, m=options.m, lmbda=lambdas(options.codec))
    return build(config)


class Files(Dataset[Tensor]):
    """A random crop of a PNG file."""

    def __init__(self, paths: list[Path], crop: int, length: int):
        self.paths, self.crop, self.length = paths, crop, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> Tensor:
        picture = Image.open(self.paths[item % len(self.paths)]).convert("RGB")
        rng = np.random.default_rng(item)
        left = int(rng.integers(picture.width - self.crop + 1))
        top = int(rng.integers(picture.height - self.crop + 1))
        piece = picture.crop((left, top, left + self.crop, top + self.crop))
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.asarray(piece).copy()).permute(2, 0, 1).float() / 255


Step = Callable[[Tensor], tuple[Tensor, ...]]


def plain_factorized(options: argparse.Namespace) -> Step:
    """A step as CompressAI's example has it: loss, bpp, MSE and the quantiles' loss of a batch."""
    from compressai.losses import RateDistortionLoss
    from compressai.models import FactorizedPrior
    from compressai.optimizers import net_aux_optimizer

    torch.manual_seed(0)
    network = FactorizedPrior(options.n, options.m).to(options.device).train()
    criterion = RateDistortionLoss(lmbda=lambdas(options.codec)[0])
    rates = {"net": {"type": "Adam", "lr": 3e-4}, "aux": {"type": "Adam", "lr": 1e-3}}
    optimisers = net_aux_optimizer(network, rates)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        for optimiser in optimisers.values():
            optimiser.zero_grad()
        found = criterion(network(x), x)
        found["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimisers["net"].step()
        aux_loss = network.aux_loss()
        aux_loss.backward()
        optimisers["aux"].step()
        return found["loss"], found["bpp_loss"], found["mse_loss"], aux_loss

    return step


def plain_variable(options: argparse.Namespace) -> Step:
    """The same for a codec of the project with CompressAI's GDN, each picture at a level of its own."""
    codec = made_codec(options).to(options.device).train()
    for module in codec.modules():
        if isinstance(module, GDN):
            module.__class__ = CompressAIGDN
    main = torch.optim.Adam(codec.main_parameters(), lr=3e-4)
    aux = torch.optim.Adam(codec.aux_parameters(), lr=1e-3)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        level = torch.rand(options.batch, device=x.device) * codec.top_level
        main.zero_grad()
        aux.zero_grad()
        output: Output = codec(x, level=level)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        bpp = torch.stack([torch.log(v).sum() for v in output.likelihoods.values()]).sum()
        bpp = bpp / (-np.log(2) * pixels)
        mse = ((output.x_hat - x) ** 2).mean(dim=(1, 2, 3))
        loss = bpp + (output.lmbda.flatten() * 255**2 * mse).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.main_parameters(), 1.0)
        main.step()
        aux_loss = codec.aux_loss()
        aux_loss.backward()
        aux.step()
        return loss, bpp, mse.mean(), aux_loss

    return step


def plain_loop(paths: list[Path], options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and processor seconds for `steps` steps."""
    torch.set_num_threads(options.threads)
    step = (plain_variable if options.codec in OWN else plain_factorized)(options)
    files = Files(paths, options.crop, options.batch * (options.steps + options.warm))
    pinned = options.device != "cpu"
    loader = DataLoader(files, batch_size=options.batch, num_workers=options.workers, shuffle=True, pin_memory=pinned)
    began, used = 0.0, 0.0
    for number, x in enumerate(loader):
        if number == options.warm:
            began, used = time.perf_counter(), processor_s()
        _ = [value.item() for value in step(x.to(options.device, non_blocking=True))]
    seconds = time.perf_counter() - began
    del loader
    return seconds, processor_s() - used


def fovea_loop(frames: FrameSet, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and processor seconds for `steps` steps, rows included; set-up, checkpoint (every 500 steps) and tables not."""
    marks: dict[int, tuple[float, float]] = {}
    done = 0

    def mark() -> bool:
        nonlocal done
        done += 1
        if options.device != "cpu" and done in (options.warm, options.steps + options.warm):
            torch.cuda.synchronize()
        marks[done] = time.perf_counter(), processor_s()
        return False

    record = {
        "mechanism": "none",
        "lmbda": list(lambdas(options.codec)),
        "seed": 0,
        "steps": options.steps + options.warm,
        "batch_size": options.batch,
        "crop": options.crop,
        "lr": 3e-4,
        "aux_lr": 1e-3,
        "clip_norm": 1.0,
        "warmup_steps": 0,
        "final_lr_factor": 0.05,
        "ema": 0.0,
        "distortion": "mse",
        "mode": options.mode,
    }
    with tempfile.TemporaryDirectory() as folder:
        train(
            RateDistortion(record, made_codec(options), frames),
            workdir=Path(folder),
            tracker_run=Run(),
            device=options.device,
            threads=options.threads,
            should_stop=mark,
        )
    first, last = marks[options.warm], marks[options.steps + options.warm]
    return last[0] - first[0], last[1] - first[1]


def crops_s(frames: FrameSet, options: argparse.Namespace) -> float:
    """Processor seconds to cut a batch."""
    torch.set_num_threads(options.threads)
    crops = Crops(frames, seed=0, batch=options.batch, crop=options.crop)
    crops.at(0)
    began = time.process_time()
    for step in range(50):
        crops.at(step)
    return (time.process_time() - began) / 50


def begun(function: Callable[..., Any], *given: Any, limit_s: float | None = None) -> Callable[[], Any]:
    """Runs the function in a fork of this process (which itself never starts torch's threads, nor a GPU's driver); gives
    what waits for its answer, for `limit_s` at most. That raises RuntimeError for one that failed, ended or was too slow."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work() -> None:
        try:
            theirs.send((function(*given), ""))
        except Exception as error:
            theirs.send((None, f"{type(error).__name__}: {error}"))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    until = None if limit_s is None else time.monotonic() + limit_s

    def answer() -> Any:
        if not ours.poll(None if until is None else max(until - time.monotonic(), 0)):
            process.kill()
            process.join()
            raise RuntimeError(f"not done after {limit_s:.0f} s")
        try:
            result, failed = ours.recv()
        except EOFError:
            result, failed = None, "its process ended without an answer"
        process.join()
        if failed:
            raise RuntimeError(failed)
        return result

    return answer


def forked(function: Callable[..., Any], *given: Any, limit_s: float | None = None) -> Any:
    """What the function returns, run as `begun` says."""
    return begun(function, *given, limit_s=limit_s)()


def processor_s() -> float:
    """This process's and its finished children's processor time."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usages)


def options_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of a command line, by default this process's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--codec", default="bmshj2018_factorized", choices=("bmshj2018_factorized", *OWN))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("-n", type=int, default=48)
    parser.add_argument("-m", type=int, default=64)
    parser.add_argument("--size", default="512x256", help="of the frames")
    parser.add_argument("--mode", default="deterministic", choices=("deterministic", "fast"))
    return parser.parse_args(given)


def framed(options: argparse.Namespace) -> FrameSet:
    width, height = (int(v) for v in options.size.split("x"))
    return FrameSet(made_pictures(64, height, width))


def compared(options: argparse.Namespace, limit_s: float | None = None) -> dict[str, float]:
    """Prints the rounds; medians in steps a second, and both ratios. limit_s: of each loop, set-up included."""
    frames = framed(options)
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(len(frames))]
        for path, picture in zip(paths, frames.pictures, strict=True):
            cv2.imwrite(str(path), picture[:, :, ::-1])
        for number in range(options.rounds):
            loops = [(ours, fovea_loop, frames), (plain, plain_loop, paths)]
            for found, loop, given in loops if number % 2 == 0 else loops[::-1]:
                found.append(forked(loop, given, options, limit_s=limit_s))
            (a, cpu_a), (b, cpu_b) = ours[-1], plain[-1]
            print(
                f"round {number + 1}: fovea {options.steps / a:.2f} steps/s ({cpu_a / options.steps:.3f} CPU s a step), "
                f"plain {options.steps / b:.2f} steps/s ({cpu_b / options.steps:.3f})",
                flush=True,
            )
    (a, cpu_a), (b, cpu_b) = ([statistics.median(v) for v in zip(*found, strict=True)] for found in (ours, plain))
    return {
        "fovea_steps_per_s": options.steps / a,
        "plain_steps_per_s": options.steps / b,
        "ratio": b / a,
        "ratio_cpu": cpu_b / cpu_a,
    }


def main() -> None:
    """Print the rounds and the ratio of the medians."""
    warnings.simplefilter("ignore")
    options = options_of()
    print(f"crops: {1e3 * forked(crops_s, framed(options), options):.2f} ms a step")
    found = compared(options)
    print(
        f"ratio fovea : plain = {found['ratio']:.2f} in steps a second, {found['ratio_cpu']:.2f} in processor time "
        f"({options.threads} threads)"
    )


if __name__ == "__main__":
    main()
