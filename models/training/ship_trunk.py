"""The command that made the weights in models/codecs/weights: a variable-rate trunk from folders of pictures.

    python -m models.training.ship_trunk --pictures ../shared/data/camvid/train \\
        --pictures ../shared/data/osie/stimuli:500 --halved ../shared/data/osie/stimuli:500 \\
        --steps 16000 --threads 1 --workdir ~/trunk_work --out models/codecs/weights/bls2017

`FOLDER:K` takes the first K pictures by sorted name; `--halved` adds them at half the size (area mean). A run that was
interrupted goes on where its last checkpoint left it: give the same command again.
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.codecs.base import CodecConfig
from models.codecs.catalogue import build
from models.errors import FoveaError
from models.experiments import CODECS, TRUNK_LAMBDAS
from models.tracking import NullRun
from models.training.data import FrameSet
from models.training.loop import train

SUFFIXES = {".png", ".jpg", ".jpeg"}


def read_folder(argument: str, halved: bool) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Names and pictures of FOLDER or FOLDER:K. Raises FoveaError for an empty folder or an unreadable picture."""
    folder, _, count = argument.partition(":")
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if count:
        paths = paths[: int(count)]
    if not paths:
        raise FoveaError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    pictures: list[NDArray[np.uint8]] = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise FoveaError(f"{path} cannot be read as a picture")
        if halved:
            half = (picture.shape[1] // 2, picture.shape[0] // 2)
            picture = cv2.resize(picture, half, interpolation=cv2.INTER_AREA)
        pictures.append(np.ascontiguousarray(picture[:, :, ::-1], dtype=np.uint8))
    return [f"{path.parent.name}/{path.name}{' halved' if halved else ''}" for path in paths], pictures


def main(arguments: list[str] | None = None) -> Path:
    """Train, or go on, and write the artifact to --out. Returns its folder."""
    parser = argparse.ArgumentParser(prog="python -m models.training.ship_trunk", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pictures", action="append", default=[], metavar="FOLDER[:K]")
    parser.add_argument("--halved", action="append", default=[], metavar="FOLDER[:K]")
    parser.add_argument("--codec", default="bls2017", choices=CODECS)
    parser.add_argument("-n", type=int, default=64, help="channels of the transforms")
    parser.add_argument("-m", type=int, default=96, help="channels of the latents")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--final-lr-factor", type=float, default=0.05)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--ema", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)

    names: list[str] = []
    pictures: list[NDArray[np.uint8]] = []
    for given, halved in ((options.pictures, False), (options.halved, True)):
        for argument in given:
            more_names, more = read_folder(argument, halved)
            names += more_names
            pictures += more
    frames = FrameSet(pictures, names=names)

    torch.manual_seed(options.seed)
    codec = build(CodecConfig(codec=options.codec, n=options.n, m=options.m, lmbda=TRUNK_LAMBDAS))
    record = {
        "kind": "trunk",
        "codec": options.codec,
        "mechanism": "none",
        "maps": "none",
        "lmbda": list(TRUNK_LAMBDAS),
        "distortion": "mse",
        "seed": options.seed,
        "n": options.n,
        "m": options.m,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "crop": options.crop,
        "lr": options.lr,
        "aux_lr": 1e-3,
        "clip_norm": options.clip_norm,
        "warmup_steps": options.warmup_steps,
        "final_lr_factor": options.final_lr_factor,
        "ema": options.ema,
    }
    folder = train(
        record,
        codec,
        frames,
        workdir=options.workdir,
        tracker_run=NullRun(),
        device=options.device,
        threads=options.threads,
        progress=_print_progress,
    )
    return ship(folder, options.out, frames, sys.argv[1:] if arguments is None else arguments)


def ship(folder: Path, out: Path, frames: FrameSet, arguments: list[str]) -> Path:
    """Copy a finished artifact to `out`, with the data and the command that made it in training.json."""
    out.mkdir(parents=True, exist_ok=True)
    facts = json.loads((folder / "training.json").read_text())
    facts["data"] = {"pictures": len(frames), "sha256": frames.digest()}
    facts["command"] = shlex.join(["python", "-m", "models.training.ship_trunk", *arguments])
    for name in ("weights.safetensors", "codec.json"):
        shutil.copyfile(folder / name, out / name)
    (out / "training.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    return out


def _print_progress(step: int, total: int, values: object) -> None:
    shown = " ".join(f"{k} {v:.4g}" for k, v in dict(values).items())  # type: ignore[call-overload]
    print(f"{step}/{total} {shown}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except FoveaError as error:
        sys.exit(str(error))
