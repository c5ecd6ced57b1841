"""Ten minutes on a machine with a GPU: both bases trained on from what ships, then measurements; one table at the end.

    python tests/benchmarks/gpu_session.py --pack osie/stimuli:500 camvid/train --mib 28 -o frames.npz
    PYTHONPATH=. python tests/benchmarks/gpu_session.py --pictures frames.npz --out OUT [--minutes 9]

The first line packs pictures on any machine; the second needs the repository, torch, compressai, safetensors, pydantic,
NumPy, SciPy, OpenCV and Pillow. --pictures takes folders, too, which are read as `fovea base` reads them.

The trainings share the GPU, each with as many steps as fit by its first seconds, and end in OUT/CODEC/final. A part that
fails is named and the others go on; OUT/session.json is written after each. Every part runs in forks of a process that
itself never touches the GPU (PYTORCH_NVML_BASED_CUDA_CHECK=1 keeps any library from doing so when it looks for one).
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import bench_training
import cv2
import numpy as np
import torch
from bench_training import begun, forked

from assets.training import bases
from models.codecs.catalogue import open_codec, read_config, shipped, shipped_folder
from models.codecs.entropy import Tables
from models.device import chosen_device
from models.saliency.predict import load_model
from models.training.data import FrameSet
from models.training.loop import TrainingStopped

CROP = 192
SCRATCH_LR = 2e-3
"""Of a base that begins with random weights; one that goes on has the recipe's."""


class Size(NamedTuple):
    """How much is done. measure_s: how long a training's speed is measured, after `warm` steps. finish_s: what its end
    takes. loop, small: arguments of bench_training, for its loops and for the `count` small trainings. pictures: that are
    decoded across; saliency: that SAM-Lite predicts."""

    measure_s: float = 8.0
    warm: int = 20
    most_steps: int = 10**6
    finish_s: float = 15.0
    pictures: int = 6
    shipped: tuple[str, ...] = tuple(shipped())
    loop: str = "--steps 100 --warm 20 --rounds 1 --workers 4"
    modes: tuple[str, ...] = ("fast", "deterministic")
    small: str = "--codec bls2017 --mode fast --steps 150"
    count: int = 8
    saliency: int = 512


TINY = "--warm 1 --steps 2 --batch 2 --crop 64 --size 64x64"
TOY = Size(0.1, 1, 3, 0, 1, (), f"{TINY} --rounds 1 --workers 1", ("fast",), f"{TINY} -n 8 -m 16", 2, 2)
TRAINING = 0.5
"""The trainings' part of all minutes."""


def pack(sources: list[str], target: Path, mib: float) -> int:
    """Pictures of the sources, in random order, until the file would be larger than `mib`: JPEGs as they are, of others
    one crop of CROP in lossless WebP. Gives how many."""
    rng = np.random.default_rng(0)
    files = bases.files_of(sources)
    packed: dict[str, np.ndarray] = {}
    room = mib * 2**20
    for number in rng.permutation(len(files)):
        data = np.fromfile(files[number], np.uint8)
        if not bases.is_jpeg(files[number].name):
            whole = cv2.imdecode(data, cv2.IMREAD_COLOR)
            top, left = (int(rng.integers(max(side - CROP, 0) + 1)) for side in whole.shape[:2])
            piece = whole[top : top + CROP, left : left + CROP]
            data = cv2.imencode(".webp", piece, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].ravel()
        room -= len(data) + 1000  # name, twice, and headers
        if room < 0:
            break
        packed[f"{len(packed):05}{files[number].suffix}"] = data
    np.savez(target, **packed)  # type: ignore[arg-type]
    return len(packed)


def frames_of(options: argparse.Namespace, most: int | None = None) -> FrameSet:
    """The pictures with SAM-Lite's maps, JPEGs shrunk, as `bases.frames_of`. most: so many of a packed file's."""
    if not options.pictures[0].endswith(".npz"):
        return bases.frames_of(options.pictures)
    held = np.load(options.pictures[0])
    whole = {n: cv2.imdecode(held[n], cv2.IMREAD_COLOR)[:, :, ::-1] for n in held.files[:most]}
    pictures = [np.ascontiguousarray(p) for n, p in whole.items() if not bases.is_jpeg(n)]
    for scale in bases.SHRUNK:  # those of one size together: SAM-Lite's batches
        resized = (
            cv2.resize(whole[n], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            for n in whole
            if bases.is_jpeg(n)
        )
        pictures += resized
    return FrameSet(pictures, load_model("sam_lite", device=options.device).predict(pictures))


def trained(name: str, options: argparse.Namespace, size: Size, until: float, together: Any) -> dict[str, Any]:
    """Train a base until then (time.monotonic), its speed measured when all are ready to; what its last row says."""
    frames, folder = frames_of(options), options.out / name
    begin = dict(v.split("=", 1) for v in options.begin).get(name, "")
    if not begin and name in shipped() and read_config(shipped_folder(name)) == bases.config_of(name):
        begin = name
    lr = options.lr or (bases.RECIPE["lr"] if begin else SCRATCH_LR)
    given: dict[str, Any] = {
        "begin": begin,
        "changes": {"lr": lr, "batch_size": options.batch, "warmup_steps": 100},
        "device": options.device,
        "threads": options.threads,
    }
    marks: list[float] = []

    def measured() -> bool:
        marks.append(time.monotonic())
        return len(marks) > size.warm + 1 and marks[-1] - marks[size.warm] > size.measure_s

    with suppress(BrokenBarrierError):
        together.wait()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place, suppress(TrainingStopped):
        bases.train_base(name, frames, Path(place), steps=10**6, should_stop=measured, **given)
    rate = (len(marks) - 1 - size.warm) / (marks[-1] - marks[size.warm])
    left = until - time.monotonic() - (marks[0] - began) - size.finish_s
    steps = min(max(int(0.9 * rate * left), size.warm), size.most_steps)
    print(f"{name}: {rate:.2f} steps/s, so {steps} steps; from {begin or 'random weights'}", flush=True)
    final = bases.train_base(name, frames, folder, steps=steps, **given)
    facts = json.loads((final / "training.json").read_text())
    last = json.loads((final / "history.json").read_text())[-1]
    said = {k: last[k] for k in ("loss", "bpp", "psnr_db")}
    return {k: facts[k] for k in ("device", "steps", "wall_s", "steps_per_s")} | {"begin": begin} | said


def cross_decoded(name: str, options: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Files of the CPU decoded on the device, and the other way round: how many, how many with equal symbols and equal
    y_hat, the largest differences."""
    told: list[np.ndarray] = []
    encode, decode = Tables.encode, Tables.decode

    def encoding(self: Tables, symbols: Any, *rest: Any) -> Any:
        told.append(np.array(symbols))
        return encode(self, symbols, *rest)

    def decoding(self: Tables, *given: Any) -> Any:
        told.append(decode(self, *given))
        return told[-1]

    Tables.encode, Tables.decode = encoding, decoding  # type: ignore[method-assign]
    codecs = [open_codec(name), open_codec(name).to(options.device)]
    frames = frames_of(options, size.pictures)
    found = {"files": 0, "equal_symbols": 0, "equal_y_hat": 0, "largest_y_hat": 0.0, "largest_pixel": 0}
    for k, (a, b) in itertools.product(range(min(size.pictures, len(frames))), (codecs, codecs[::-1])):
        assert frames.maps is not None
        for rate in (a.rates[0], a.rates[len(a.rates) // 2], a.rates[-1]):
            told.clear()
            encoded = a.encode(frames.pictures[k], saliency_map=frames.maps[k], rate=rate)
            sent = told[:]
            told.clear()
            got = b.entropy_decode(encoded.data)
            apart = float((got.y_hat.cpu() - encoded.sent.y_hat.cpu()).abs().max())
            pixels = np.abs(b.show_sent(got).astype(int) - encoded.reconstruction).max()
            found["files"] += 1
            found["equal_symbols"] += all(map(np.array_equal, sent, told))
            found["equal_y_hat"] += apart == 0
            found["largest_y_hat"] = max(found["largest_y_hat"], apart)
            found["largest_pixel"] = max(found["largest_pixel"], int(pixels))
    if found["equal_symbols"] < found["files"] or found["largest_pixel"] > 1:
        raise RuntimeError(f"files do not decode alike: {found}")
    return found


def small_trainings(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds for some small trainings one after the other in one process, and side by side in as many."""
    given = bench_training.options_of([*size.small.split(), "--device", options.device])
    frames = bench_training.framed(given)

    def run(count: int, threads: int, together: Any) -> tuple[float, float]:
        given.threads = threads
        torch.zeros(1, device=options.device)
        together.wait()
        began = time.monotonic()
        for _ in range(count):
            bench_training.fovea_loop(frames, given)
        return began, time.monotonic()

    began, ended = forked(run, size.count, options.threads, barrier(1), limit_s=options.left())
    together, threads = barrier(size.count), max(1, options.threads // size.count)
    answers = [begun(run, 1, threads, together, limit_s=options.left()) for _ in range(size.count)]
    begins, ends = zip(*[answer() for answer in answers], strict=True)
    one, side = ended - began, max(ends) - min(begins)
    return {"count": size.count, "one_after_other_s": one, "side_by_side_s": side, "ratio": one / side}


def barrier(count: int) -> Any:
    """Lets nobody pass until so many wait, or a minute later with an error."""
    return multiprocessing.get_context("fork").Barrier(count, timeout=60)


def saliency(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (256, 512, 3)).astype(np.uint8) for _ in range(size.saliency)]
    model = load_model("sam_lite", threads=options.threads, device=options.device)
    model.predict(frames[:4])
    began, cpu = time.perf_counter(), time.process_time()
    model.predict(frames)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"pictures_per_s": len(frames) / wall, "cpu_ms_a_picture": 1e3 * cpu / len(frames)}


def parts(options: argparse.Namespace, size: Size, until: float) -> dict[str, Callable[[], Any]]:
    """What is done after the trainings, which are under way when this returns; theirs come first."""
    together = barrier(len(bases.WIDTHS))
    done: dict[str, Callable[[], Any]] = {
        f"train {name}": begun(trained, name, options, size, until, together, limit_s=options.left() - 30)
        for name in bases.WIDTHS
    }

    def guarded(function: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        return lambda: forked(function, *given, options, size, limit_s=options.left())

    for name in bases.WIDTHS:
        done[f"decode {name}"] = guarded(cross_decoded, str(options.out / name / "final"))
    done |= {f"decode shipped {name}": guarded(cross_decoded, name) for name in size.shipped}
    done["SAM-Lite"] = guarded(saliency)
    done["small trainings"] = lambda: small_trainings(options, size)
    for mode, (name, (n, m)) in itertools.product(size.modes, bases.WIDTHS.items()):
        given = f"--codec {name} -n {n} -m {m} --mode {mode} --device {options.device} {size.loop}"
        compared = partial(bench_training.compared, bench_training.options_of(given.split()))
        done[f"loop {name} {mode}"] = lambda compared=compared: compared(options.left())
    return done


def main() -> int:
    """The command; 1 when a part failed."""
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # its pool would not outlive a fork
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pack", nargs="+", metavar="FOLDER[:COUNT]", help="make FILE of these pictures, no more")
    parser.add_argument("--mib", type=float, default=28, help="of the packed file, at most")
    parser.add_argument("-o", metavar="FILE", type=Path, default="frames.npz")
    parser.add_argument("--pictures", nargs="+", default=["frames.npz"], metavar="FOLDER[:COUNT] | FILE")
    parser.add_argument("--out", type=Path, default="gpu_session")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--begin", action="append", default=[], metavar="CODEC=FOLDER", help="default: what ships")
    parser.add_argument("--batch", type=int, default=bases.RECIPE["batch_size"])
    parser.add_argument("--lr", type=float)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--toy", action="store_true", help="tiny networks and a few steps")
    options, size = parser.parse_args(), Size()
    if options.toy:
        size, bases.WIDTHS = TOY, {"light": (8, 32), "bls2017": (8, 16)}
    if options.pack:
        print(f"{pack(options.pack, options.o, options.mib)} pictures in {options.o}")
        return 0
    options.left = lambda: max(began + 60 * options.minutes - time.monotonic(), 1.0)
    try:
        options.device = forked(chosen_device, options.device)
    except RuntimeError as error:
        sys.exit(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name, work in parts(options, size, began + 60 * TRAINING * options.minutes).items():
        print(f"== {name}, {options.left():.0f} s left", flush=True)
        try:
            results[name] = work()
        except Exception as error:
            results[name] = {"failed": str(error)}
        beside = options.out / ".session.json"
        beside.write_text(json.dumps(results, indent=1))
        beside.replace(options.out / "session.json")
    for name, found in results.items():
        said = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        print(f"{name:28} {said}")
    return int(any("failed" in found for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
