"""Writes deploy/sizing.md: what a data set of so many frames takes, from rates measured here.

    python tests/benchmarks/sizing.py            measures (CPU time, so that a busy machine matters little) and writes
    python tests/benchmarks/sizing.py --print    the page on the terminal alone

Peak arithmetic of the GPU and how much of it training reaches are parameters: no GPU was there to measure on.
"""

import argparse
import io
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
FRAME = (256, 512)
SOURCE = (1024, 2048)
CASES = (("Cityscapes", 5_000), ("100 k", 100_000), ("10 M", 10_000_000))
#: share of frames that codecs are measured on (Cityscapes: 500 of 3,475 with a public split)
MEASURED = 0.1
GIB = 2**30


def scene(height: int, width: int, noise: float, seed: int) -> np.ndarray:
    """Edges, shades and a sensor's noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / (height / 6)
    base = 128 + 50 * np.sin(x * 2 + seed) * np.cos(y * 3) + 40 * (x % 1.3 > 0.7) - 30 * (y > 3)
    colours = np.stack([base, 0.8 * base + 5 * x, 235 - base], axis=-1)
    return (colours + rng.normal(0, noise, (height, width, 1))).clip(0, 255).astype(np.uint8)


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


def measured() -> dict[str, float]:
    """CPU seconds and bytes of one frame in each stage, events and bytes of one Dagster run, work of one training."""
    import torch
    from PIL import Image

    from assets.frames.decode import read_picture
    from assets.frames.resize import resize
    from assets.saliency.rgba import pack
    from models.codecs.catalogue import build, config_for, load_codec, shipped_folder
    from models.saliency.ideal import ideal_gain
    from models.saliency.predict import load_model
    from models.sweeps import sweep

    torch.set_num_threads(1)
    buffer = io.BytesIO()
    Image.fromarray(scene(*SOURCE, 1.0, 0)).save(buffer, "PNG")
    png = buffer.getvalue()
    frame = resize(read_picture(png, "a.png"), (FRAME[1], FRAME[0]))
    model = load_model("sam_lite", device="cpu", threads=1)
    frames = [resize(scene(*SOURCE, 1.0, k), (FRAME[1], FRAME[0])) for k in range(4)]
    saliency_map = model.predict([frame])[0]
    codec = load_codec(shipped_folder("bls2017"))
    lmbda = codec.config.lmbda[len(codec.config.lmbda) // 2]

    def round_trip() -> None:
        codec.decode(codec.encode(frame, rate=lmbda).data)

    found = {
        "source_bytes": float(len(png)),
        "resize_s": cpu_s(lambda: resize(read_picture(png, "a.png"), (FRAME[1], FRAME[0])), 10),
        "map_s": cpu_s(lambda: model.predict(frames), 2) / len(frames),
        "pack_s": cpu_s(lambda: pack(frame, saliency_map), 20),
        "statistics_s": cpu_s(lambda: ideal_gain(saliency_map, saliency_map), 3),
        "code_s": cpu_s(round_trip, 3),
        "frame_bytes": float(frame.nbytes),
        "map_bytes": float(saliency_map.nbytes),
        "rgba_bytes": float(len(pack(frame, saliency_map))),
    }
    experiment = sweep("seed", "sample").experiments[0]
    record = experiment.resolved()
    trained = build(config_for(experiment))
    found["macs_a_pixel"] = macs_a_pixel(trained, int(record["crop"]))
    found["pixels"] = float(record["steps"] * record["batch_size"] * record["crop"] ** 2)
    found["experiments"] = float(len(sweep("seed", "sample").experiments))
    return {**found, **dagster_run()}


def macs_a_pixel(codec: Any, crop: int) -> float:
    """Multiply–accumulates of one forward for each pixel, counted at the convolutions."""
    import torch

    total = 0

    def count(layer: Any, _: Any, out: Any) -> None:
        nonlocal total
        weight = layer.weight
        if isinstance(layer, torch.nn.ConvTranspose2d):
            total += weight.numel() * out.numel() // (out.shape[1] * layer.stride[0] * layer.stride[1])
        else:
            total += weight.numel() * out.numel() // out.shape[1]

    layers = [m for m in codec.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        codec(torch.zeros(1, 3, crop, crop), level=torch.zeros(1, dtype=torch.long))
    for hook in hooks:
        hook.remove()
    return total / crop**2


def dagster_run() -> dict[str, float]:
    """Events and bytes in the database of one run of one asset, from the runs of a small folder's frames."""
    import sqlite3

    from PIL import Image

    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for split, count in (("train", 4), ("val", 1), ("test", 1)):
            (here / "pictures" / split).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(scene(64, 96, 2.0, k)).save(here / "pictures" / split / f"{k}.png")
        os.environ |= {"FOVEA_HOME": f"{place}/home", "FOVEA_CONFIG": place}
        os.environ.pop("DAGSTER_HOME", None)
        from assets.datasets import add_dataset
        from assets.home import Home
        from assets.stages import open_chain
        from pipelines.instance import prepare_instance
        from pipelines.launch import run_targets
        from pipelines.plan import dataset_targets
        from pipelines.schedules import sweep

        home = Home.from_environment()
        add_dataset(home.config, "pictures", here / "pictures")
        prepare_instance(home)
        chain = open_chain(home, threads=1, device="cpu")
        outcome = run_targets(chain, dataset_targets(chain, "pictures"), sweep)
        assert outcome.failed == 0, outcome.messages
        events = size = runs = 0
        for file in (home.dagster / "history" / "runs").glob("*.db"):
            if file.name == "index.db":
                continue
            database = sqlite3.connect(file)
            runs += 1
            rows, text = database.execute("select count(*), sum(length(event)) from event_logs").fetchone()
            events, size = events + rows, size + text
            database.close()
        return {"events_a_run": events / runs, "event_bytes_a_run": size / runs}


def page(rates: dict[str, float], peak_tflops: float, reached: float, put_s: float) -> str:
    """The whole page as Markdown."""
    shard = 32
    per_frame = rates["resize_s"] + rates["map_s"] + rates["pack_s"]
    flops = 2 * 3 * rates["macs_a_pixel"] * rates["pixels"]
    gpu_h = flops / (peak_tflops * 1e12 * reached) / 3600
    stored = rates["frame_bytes"] + rates["map_bytes"] + rates["rgba_bytes"]
    rows = []
    for name, frames in CASES:
        tests = frames * MEASURED
        runs = 4 + 2 * rates["experiments"] + 4
        rows.append(
            (
                name,
                f"{frames:,}",
                f"{frames * rates['source_bytes'] / GIB:,.0f}",
                f"{frames * stored / GIB:,.1f}",
                f"{frames / shard:,.0f}",
                f"{frames * per_frame / 3600:,.1f}",
                f"{frames * rates['statistics_s'] / 3600:,.1f}",
                f"{tests * rates['experiments'] * rates['code_s'] / 3600:,.0f}",
                f"{rates['experiments'] * gpu_h:,.0f}",
                f"{runs:,.0f}",
                f"{runs * rates['event_bytes_a_run'] / 2**20:,.0f}",
                f"{2 * frames / shard * put_s / 3600:,.1f}",
            )
        )
    names = (
        "data set", "frames", "source GiB", "store GiB", "shards a stage", "CPU h: resize, map, pack",
        "CPU h: numbers of maps (one process)", "CPU h: measuring `seed`", "GPU h: training `seed`",
        "Dagster runs", "Dagster MiB", "h: reading every shard's list once, one request at a time",
    )  # fmt: skip
    table = "\n".join(
        f"| {name} | " + " | ".join(row[place] for row in rows) + " |" for place, name in enumerate(names)
    )
    head, rest = table.split("\n", 1)
    cut = "|---|" + "---:|" * len(CASES)
    facts = "\n".join(
        f"| {label} | {value} |"
        for label, value in (
            ("decode a 2048×1024 PNG and resize it", f"{1e3 * rates['resize_s']:.0f} ms CPU"),
            ("map by SAM-Lite, one thread", f"{1e3 * rates['map_s']:.0f} ms CPU"),
            ("pack frame and map into a PNG", f"{1e3 * rates['pack_s']:.1f} ms CPU"),
            ("numbers of a map (peak share, ideal gain)", f"{1e3 * rates['statistics_s']:.1f} ms CPU"),
            ("encode and decode one frame, bls2017", f"{1e3 * rates['code_s']:.0f} ms CPU"),
            ("frame, map, RGBA PNG", f"{rates['frame_bytes'] / 1e3:.0f}, {rates['map_bytes'] / 1e3:.0f}, {rates['rgba_bytes'] / 1e3:.0f} kB"),
            ("source PNG", f"{rates['source_bytes'] / 1e6:.1f} MB"),
            ("a Dagster run of one asset", f"{rates['events_a_run']:.0f} events, {rates['event_bytes_a_run'] / 1e3:.0f} kB"),
            ("one training of `seed`", f"{rates['pixels'] / 1e9:.0f} G pixels × {rates['macs_a_pixel'] / 1e3:.1f} k multiply–adds forward, three times that with the gradient: {flops / 1e15:.0f} PFLOP"),
        )
    )  # fmt: skip
    return PAGE.format(
        machine=platform.processor() or platform.machine(),
        facts=facts,
        table=f"{head}\n{cut}\n{rest}",
        peak=peak_tflops,
        reached=100 * reached,
        hours=gpu_h,
        put=1e3 * put_s,
        measured=100 * MEASURED,
        experiments=int(rates["experiments"]),
        partitions=f"{rates['experiments']:,.0f}",
    )


PAGE = """\
# Sizing

Written by `python tests/benchmarks/sizing.py`, which measures and computes everything below. Change a parameter there, not a
number here.

## Rates

Measured as CPU time on one core ({machine}); frames are 512×256.

| work | rate |
|---|---|
{facts}

Not measured, parameters of the script:
- **GPU**: {peak} TFLOP/s peak (A100, FP32 without tensor cores, NVIDIA's data sheet), of which a training reaches
  {reached:.0f} % (assumed: no GPU was there to measure). One training of `seed` then takes {hours:.1f} GPU hours.
- **Object store**: {put:.0f} ms a request (assumed; a loopback server answers faster, a bucket far away slower).
- Codecs are measured on {measured:.0f} % of the frames.

## What it takes

`seed`: {experiments} experiments. Trainings have a fixed number of steps, so more frames cost no GPU hours there.

{table}

CPU hours are divided by the cores of the cluster: chunks of frames are independent tasks.

## Which limit comes first

1. **Measuring** a whole sweep, in CPU hours: it grows with experiments × measured frames, and passes the training itself at
   about 100 k frames. Its steps are independent, so more nodes help; else name a smaller dataset in `evaluate_on`.
2. **The store's lists**, in time that more nodes don't shorten: to know what is there, every command reads the list of each
   shard (32 frames) that it has not seen, and the names of all RGBA PNGs. Minutes at 100 k frames, hours at 10 M, and each plan
   hashes every frame's key again. Register 10 M frames as datasets of some 100 k, which plan and resume by themselves.
3. **Numbers of maps** (peak share, ideal gain) come from one process of the step `saliency_maps`, not from chunks: hours at
   10 M frames.
4. **Storage and network**: the source is read once; the store holds raw frames, raw maps and PNGs. A training reads its
   dataset's shards into each node's cache once (`cache_gib`), 0.5 MB a frame.
5. **Dagster's database** grows with runs, not with frames: frames are no partitions. A sweep's {partitions} experiments are
   partitions of one asset; Dagster's own guidance is to stay below 100,000 partitions an asset, which is hundreds of sweeps.
"""


def main() -> None:
    """Measure and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--print", action="store_true", dest="shown")
    options.add_argument("--peak-tflops", type=float, default=19.5)
    options.add_argument("--reached", type=float, default=0.3)
    options.add_argument("--request-ms", type=float, default=20.0)
    given = options.parse_args()
    text = page(measured(), given.peak_tflops, given.reached, given.request_ms / 1e3)
    if given.shown:
        print(text)
    else:
        (ROOT / "deploy" / "sizing.md").write_text(text)
        print(f"written: {ROOT / 'deploy' / 'sizing.md'}")


if __name__ == "__main__":
    main()
