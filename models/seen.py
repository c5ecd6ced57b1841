"""Which pictures a model has seen: a list beside its weights, so that what it does on them is never taken for a test."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from models.errors import FoveaError


@dataclass(frozen=True)
class Seen:
    """Contents of picture files (first 16 hexadecimal digits of SHA-256; in a zip, its checksums) that a model was made with.
    `train` pictures set the weights, `validation` pictures chose epoch and inference settings."""

    train: frozenset[str] = frozenset()
    validation: frozenset[str] = frozenset()

    def trained_on(self, contents: Iterable[str]) -> list[bool]:
        """Of each of these contents (SHA-256) whether it set the weights."""
        return [short(content) in self.train for content in contents]


def seen_path(weights: Path) -> Path:
    """Where the list lies: beside the weights."""
    return weights.with_suffix(".pictures.json")


def short(content: str) -> str:
    """A picture's content as it stands in the list: of SHA-256 the beginning, what is known of a file in a zip as it is."""
    return content if ":" in content else content[:16]


def read_seen(weights: Path) -> Seen:
    """The pictures that weights have seen; empty where nobody wrote it down. Raises FoveaError for a damaged list."""
    path = seen_path(weights)
    try:
        listed = json.loads(path.read_text())
        train, validation = listed["train"], listed["validation"]
        if not (isinstance(train, list) and isinstance(validation, list)):
            raise TypeError("train and validation have to be lists")
        return Seen(frozenset(train), frozenset(validation))
    except FileNotFoundError:
        return Seen()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FoveaError(f"{path}: not a list of pictures ({error}); delete it or make it again") from error


def write_seen(weights: Path, train: Iterable[str], validation: Iterable[str] = ()) -> Path:
    """Write the list beside the weights, atomically; takes SHA-256 of files, or what a list has of them."""
    path = seen_path(weights)
    listed = {"train": sorted({*map(short, train)}), "validation": sorted({*map(short, validation)})}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(listed) + "\n")
    beside.replace(path)
    return path
