"""Exact resume: what a training run is at a step, in one file that is either whole or not there.

    magic (8 bytes) · SHA-256 of the payload (32) · payload (torch.save; read with weights_only=True)

A checkpoint is written beside and renamed; the one before it stays until the new one is complete. A file that was cut
short or changed is not believed: the one before it is taken, with a warning.
"""

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

MAGIC = b"fovea\x00c1"
KEEP = 2


class DamagedCheckpointWarning(UserWarning):
    """A checkpoint could not be used; the one before it is."""


def packed(state: dict[str, Any]) -> bytes:
    """A training's state as bytes: tensors, numbers, strings, lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(payload: bytes | memoryview, device: str | torch.device) -> dict[str, Any]:
    """The state again, tensors on `device`; nothing in it is executed."""
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return state


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps and drop all but the newest two checkpoints. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    payload = packed(state)
    path = folder / f"step-{step:09d}.ckpt"
    beside = folder / f".{path.name}.{os.getpid()}"
    with beside.open("wb") as file:
        file.write(MAGIC + hashlib.sha256(payload).digest())
        file.write(payload)
    beside.replace(path)
    for old in checkpoints(folder)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The files, newest step first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> dict[str, Any] | None:
    """The newest state that is whole, tensors on `device`; None when there is none. Warns (DamagedCheckpointWarning) for
    each file that is passed over, and deletes it. Files that an interrupted writer left beside are deleted too."""
    for leftover in folder.glob(".step-*.ckpt.*"):
        leftover.unlink(missing_ok=True)
    for path in checkpoints(folder):
        data = path.read_bytes()
        header = len(MAGIC) + 32
        payload = memoryview(data)[header:]
        if data[:header] == MAGIC + hashlib.sha256(payload).digest():
            return unpacked(payload, device)
        warnings.warn(
            f"{path} is damaged ({len(data)} bytes): going on from the checkpoint before it",
            DamagedCheckpointWarning,
            stacklevel=2,
        )
        path.unlink(missing_ok=True)
    return None


def drop_checkpoints(folder: Path) -> None:
    """Delete all of them, once the final artifact is complete."""
    for path in (*checkpoints(folder), *folder.glob(".step-*.ckpt.*")):
        path.unlink(missing_ok=True)
