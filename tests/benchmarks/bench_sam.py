"""Seconds a picture of SAM-VGG or SAM-ResNet, numbers in place of weights (speed doesn't depend on them).

python tests/benchmarks/bench_sam.py {sam_vgg,sam_resnet} THREADS [PICTURES] [DEVICE]

Prints wall and CPU seconds a 512×256 picture, post-processing included: on a busy machine only the latter means much.
"""

import resource
import sys
import time

import numpy as np
import torch

from models.saliency.sam_predictor import SAMPredictor
from models.training.sam import initialise


def main(name: str, threads: str, pictures: str = "3", device: str = "cpu") -> None:
    """Measure after one picture (or, on a GPU, one batch) of warming up."""
    torch.set_num_threads(int(threads))
    predictor = SAMPredictor(initialise(name, 0), version="benchmark", device=device)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (256, 512, 3), dtype=np.uint8) for _ in range(int(pictures))]
    predictor.predict(frames[: predictor.batch_size])
    wall, cpu = time.perf_counter(), time.process_time()
    predictor.predict(frames)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{name}, {threads} threads, {predictor.device}: {wall / len(frames):.3f} s wall, "
        f"{cpu / len(frames):.3f} s CPU a picture; peak {peak} MiB"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
