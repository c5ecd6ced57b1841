"""Evaluation (encode, decode, metrics): Fovea's path against CompressAI's `eval_model`, same weights and pictures.

    GOMP_SPINCOUNT=1000 python tests/benchmarks/bench_evaluation.py [--threads 1] [--pictures 2] [--rounds 2] [--n 128] [--m 192]

Both read PNG files, code them with a bmshj2018_hyperprior (made weights), decode, and measure, each in a process of its
own (Fovea sets up the memory of its process) and in turn, so that both see the same machine. eval_model measures PSNR and
MS-SSIM; Fovea is timed twice: with the same two metrics, and with all of `models.metrics`. Fovea also checks that the
decoder gets what the encoder meant. bpp differ by Fovea's container (and CompressAI's file would need one, too); PSNR and
MS-SSIM are compared to 1e-4. The target is 2.

Seconds are those of the processor at one thread (other work on the machine does not count), of the clock at more.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from compressai.models.google import ScaleHyperprior  # noqa: E402
from compressai.utils.eval_model import __main__ as eval_model  # noqa: E402
from PIL import Image  # noqa: E402

from assets.evaluation.measure import Subject, measure_codec  # noqa: E402
from assets.frames.decode import read_picture  # noqa: E402
from models.codecs.base import Codec  # noqa: E402
from models.codecs.batch import in_order  # noqa: E402
from models.codecs.external import load_checkpoint  # noqa: E402
from models.metrics import measure  # noqa: E402

HEIGHT, WIDTH = 512, 768  # multiples of 64: neither side pads


def made_files(folder: Path, count: int) -> list[Path]:
    """Smooth shapes with noise, as PNG."""
    rng = np.random.default_rng(0)
    paths = []
    for place in range(count):
        coarse = rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture = (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{place}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


def made_models(folder: Path, n: int, m: int) -> tuple[torch.nn.Module, Codec]:
    """CompressAI's model and ours with the same weights, moved from where they start so that there is something to code."""
    torch.manual_seed(1)
    reference = ScaleHyperprior(n, m).eval()
    with torch.no_grad():
        reference.g_a[6].weight.mul_(20)
        reference.h_a[4].weight.mul_(4)
        reference.h_s[4].bias.add_(torch.linspace(3.0, 12.0, m))
    reference.update(force=True, update_quantiles=True)
    torch.save(reference.state_dict(), folder / "checkpoint.pth")
    return reference, load_checkpoint(folder / "checkpoint.pth", "bmshj2018_hyperprior")


def theirs(reference: torch.nn.Module, paths: list[Path]) -> dict[str, Any]:
    """eval_model's loop over files."""
    return dict(
        eval_model.eval_model(
            reference, Path(), paths[0].parent, paths, architecture="bmshj2018-hyperprior", half=False, per_image=False
        )
    )


def ours(codec: Codec, paths: list[Path], threads: int, everything: bool) -> dict[str, float]:
    """As `measure_codec` does it; with the two metrics alone, or as it is."""
    if everything:
        flat = np.full((HEIGHT, WIDTH), 255, np.uint8)
        subjects = [Subject(p.name, read_picture(p), None, flat, flat.astype(np.float32)) for p in paths]
        rows = measure_codec(codec, subjects, codec.config.lmbda, threads=threads).rows
    else:

        def one(path: Path) -> dict[str, float]:
            picture = read_picture(path)
            began = time.perf_counter()
            encoded = codec.encode(picture)
            middle = time.perf_counter()
            decoded = codec.decode_checked(encoded)
            ended = time.perf_counter()
            values = measure(picture, decoded, indices=False)
            spent = {"encode_s": middle - began, "decode_s": ended - middle, "metrics_s": time.perf_counter() - ended}
            return {"bpp": 8 * len(encoded.data) / (HEIGHT * WIDTH), **values, **spent}

        rows = list(in_order(one, paths, threads=threads))
    return {
        k: float(np.mean([r[k] for r in rows]))
        for k in ("bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s", "metrics_s")
        if k in rows[0]
    }


def timed(work: Callable[[], dict[str, Any]], threads: int) -> tuple[float, dict[str, Any]]:
    """Seconds and what came out."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    found = work()
    return clock() - began, found


WAYS = ("eval_model", "fovea, the same metrics", "fovea, all its metrics")


def worker(way: str, folder: Path, options: argparse.Namespace, pipe: Connection) -> None:
    """One way, once for each message: answers with seconds and what came out."""
    warnings.simplefilter("ignore")
    paths = sorted(folder.glob("*.png"))
    reference, codec = made_models(folder / way.replace(" ", "_"), options.n, options.m)
    work = {
        WAYS[0]: lambda: theirs(reference, paths),
        WAYS[1]: lambda: ours(codec, paths, options.threads, False),
        WAYS[2]: lambda: ours(codec, paths, options.threads, True),
    }[way]
    while pipe.recv():
        pipe.send(timed(work, options.threads))


def main() -> None:
    """Print the ratios and the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("threads", 1), ("pictures", 2), ("rounds", 2), ("n", 128), ("m", 192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = made_files(Path(folder), options.pictures)
        assert len(paths) == options.pictures
        context = multiprocessing.get_context("spawn")
        pipes: dict[str, Connection] = {}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        found: dict[str, dict[str, Any]] = {}
        for name in WAYS:
            (Path(folder) / name.replace(" ", "_")).mkdir()
            pipes[name], theirs_end = context.Pipe()
            context.Process(target=worker, args=(name, Path(folder), options, theirs_end), daemon=True).start()
        for turn in range(1 + options.rounds):
            for name, pipe in pipes.items():
                pipe.send(True)
                spent, found[name] = pipe.recv()
                if turn:  # the first loads what is loaded once
                    seconds[name].append(spent)
        for pipe in pipes.values():
            pipe.send(False)
    base = statistics.median(seconds["eval_model"])
    unit = "processor seconds" if options.threads == 1 else "seconds"
    print(
        f"{options.pictures} pictures of {WIDTH}×{HEIGHT}, N {options.n}, M {options.m}, {options.threads} threads, {unit} a picture"
    )
    for name, values in seconds.items():
        middle = statistics.median(values)
        parts = ", ".join(f"{k.removesuffix('_s')} {v:.2f}" for k, v in found[name].items() if k.endswith("_s"))
        print(f"{name:24} {middle / options.pictures:6.2f}  ratio {base / middle:4.2f}  {parts}")
    their, our = found["eval_model"], found["fovea, the same metrics"]
    more = (our["bpp"] - their["bpp"]) * HEIGHT * WIDTH / 8
    print(f"bpp {their['bpp']:.5f} and {our['bpp']:.5f}: {more:+.1f} bytes a picture (container, lengths, checksum)")
    for name, mine, other in (
        ("PSNR", our["psnr_db"], their["psnr-rgb"]),
        ("MS-SSIM", our["ms_ssim"], their["ms-ssim-rgb"]),
    ):
        print(f"{name} {other:.6f} and {mine:.6f}: {'equal' if abs(mine - other) < 1e-4 else 'DIFFERENT'} to 1e-4")


if __name__ == "__main__":
    main()
