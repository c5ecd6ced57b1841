"""Milliseconds per 512×256 picture for each saliency model, on one thread and on two.

    python tests/benchmarks/bench_saliency.py [--models sam_lite,spectral_residual] [--pictures 40] [--repeats 5]

The best of several repeats is printed: on a shared machine the others measure its load. CPU time stands beside it.
"""

import argparse
import time

import cv2
import numpy as np
import torch

from models.saliency.predict import load_model


def measure(name: str, threads: int, frames: list[np.ndarray], repeats: int, device: str) -> tuple[float, float]:
    """(wall, CPU) milliseconds per picture, each the best of the repeats."""
    model = load_model(name, threads=threads, device=device)
    model.predict(frames[:4])
    wall, busy = [], []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), time.process_time()
        model.predict(frames)
        wall.append((time.perf_counter() - start) / len(frames) * 1e3)
        busy.append((time.process_time() - cpu) / len(frames) * 1e3)
    return min(wall), min(busy)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="sam_lite,spectral_residual,center_prior")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (256, 512, 3)).astype(np.uint8) for _ in range(given.pictures)]
    print("| model | 1 thread, ms | CPU, ms | 2 threads, ms | CPU, ms | rate of 2 threads |")
    print("|---|---|---|---|---|---|")
    for name in given.models.split(","):
        one, one_cpu = measure(name, 1, frames, given.repeats, given.device)
        two, two_cpu = measure(name, 2, frames, given.repeats, given.device)
        print(f"| {name} | {one:.1f} | {one_cpu:.1f} | {two:.1f} | {two_cpu:.1f} | {one / two:.2f}× |")


if __name__ == "__main__":
    main()
