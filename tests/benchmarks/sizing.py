"""The rates of deploy/sizing.md, measured here as CPU time of one core: `python tests/benchmarks/sizing.py`."""

import io
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from assets.datasets import add_dataset
from assets.frames.decode import read_picture
from assets.frames.resize import resize
from assets.home import Home
from assets.saliency.rgba import pack
from assets.stages import open_chain
from models.codecs.catalogue import build, config_for, load_codec, shipped_folder
from models.saliency.ideal import ideal_gain
from models.saliency.predict import load_model
from models.sweeps import sweep

FRAME, SOURCE = (512, 256), (1024, 2048)


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Edges, shades and a sensor's noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / (height / 6)
    base = 128 + 50 * np.sin(x * 2 + seed) * np.cos(y * 3) + 40 * (x % 1.3 > 0.7) - 30 * (y > 3)
    colours = np.stack([base, 0.8 * base + 5 * x, 235 - base], axis=-1)
    return (colours + rng.normal(0, 1, (height, width, 1))).clip(0, 255).astype(np.uint8)


def cpu_s(work: Callable[[], Any], times: int) -> float:
    """CPU seconds of one call, the least of three rounds."""
    work()
    rounds = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - began) / times)
    return min(rounds)


def of_frames() -> None:
    """CPU seconds and bytes of one frame in each stage."""
    buffer = io.BytesIO()
    Image.fromarray(scene(*SOURCE, 0)).save(buffer, "PNG")
    png = buffer.getvalue()
    frames = [resize(scene(*SOURCE, k), FRAME) for k in range(4)]
    model, codec = load_model("sam_lite", device="cpu", threads=1), load_codec(shipped_folder("bls2017"))
    saliency_map = model.predict(frames[:1])[0]
    lmbda = codec.config.lmbda[len(codec.config.lmbda) // 2]
    rates = {
        "decode a 2048×1024 PNG and resize it": cpu_s(lambda: resize(read_picture(png, "a.png"), FRAME), 10),
        "map by SAM-Lite, one thread": cpu_s(lambda: model.predict(frames), 2) / len(frames),
        "pack frame and map into a PNG": cpu_s(lambda: pack(frames[0], saliency_map), 20),
        "numbers of a map (peak share, ideal gain)": cpu_s(lambda: ideal_gain(saliency_map, saliency_map), 3),
        "encode and decode one frame, bls2017": cpu_s(
            lambda: codec.decode(codec.encode(frames[0], rate=lmbda).data), 3
        ),
    }
    for what, seconds in rates.items():
        print(f"{what}: {1e3 * seconds:.1f} ms CPU")
    sizes = (frames[0].nbytes, saliency_map.nbytes, len(pack(frames[0], saliency_map)), len(png))
    print("frame, map, RGBA PNG, source PNG: " + ", ".join(f"{size / 1e3:.0f} kB" for size in sizes))


def of_a_training() -> None:
    """Arithmetic of one training of `seed`."""
    experiments = sweep("seed", "sample").experiments
    record = experiments[0].resolved()
    pixels, crop = record["steps"] * record["batch_size"] * record["crop"] ** 2, record["crop"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build(config_for(experiments[0]))(torch.zeros(1, 3, crop, crop), level=torch.zeros(1, dtype=torch.long))
    a_pixel = counter.get_total_flops() / 2 / crop**2
    print(
        f"one of {len(experiments)} trainings of seed: {pixels / 1e9:.0f} G pixels × {a_pixel / 1e3:.1f} k multiply–adds "
        f"forward, three times that with the gradient: {6 * a_pixel * pixels / 1e15:.0f} PFLOP"
    )


def of_dagster(here: Path) -> None:
    """Events and bytes in the database of one run of one asset, from the runs of a small folder's frames."""
    from pipelines.instance import prepare_instance
    from pipelines.launch import run_targets
    from pipelines.schedules import sweep as job

    for split, count in (("train", 4), ("val", 1), ("test", 1)):
        (here / "pictures" / split).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(scene(64, 96, k)).save(here / "pictures" / split / f"{k}.png")
    os.environ |= {"FOVEA_HOME": f"{here}/home", "FOVEA_CONFIG": str(here)}
    os.environ.pop("DAGSTER_HOME", None)
    home = Home.from_environment()
    add_dataset(home.config, "pictures", here / "pictures")
    prepare_instance(home)
    chain = open_chain(home, threads=1, device="cpu")
    assert run_targets(chain, chain.upstream(("rgba_frames", "pictures")), job).failed == 0
    counted = []
    for file in (home.dagster / "history" / "runs").glob("*.db"):
        if file.name != "index.db":
            with sqlite3.connect(file) as database:
                counted += database.execute("select count(*), sum(length(event)) from event_logs").fetchall()
    events, size = np.mean(counted, axis=0)
    print(f"a Dagster run of one asset: {events:.0f} events, {size / 1e3:.0f} kB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    of_frames()
    of_a_training()
    with tempfile.TemporaryDirectory() as folder:
        of_dagster(Path(folder))
