"""The chain of stages without Dagster: what each stage makes for a partition, under which key, and why it is stale.

A `Unit` is what one stage makes for one partition, with a key hashed from everything that it is made from. `Chain.make`
makes it, or finds it in the store. Dagster's assets, `fovea run` and the planner all go through here, so a
materialisation from the UI obeys the same store as the command line.
"""

import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import filelock

from assets.datasets import Dataset, load_registry
from assets.handover import shared_work
from assets.home import Home, explained, written_beside
from assets.log import lasting_logger
from assets.store import Store, UnitWriter, digest
from assets.versions import code_version, library_versions
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.sweeps import Sweep, sweep, sweep_names
from models.tracking import NullTracker, Tracker

_LOG = lasting_logger(__name__)

Progress = Callable[[float, float, str], None]


def silent(done: float, total: float, note: str = "") -> None:
    """A progress callback that shows nothing."""


#: what a stage knows of one frame
Row = dict[str, Any]
#: works on rows of a partition and puts what it makes into the store: returns the bytes put. A function of a module, so
#: that another process can find it by name
ChunkWork = Callable[["Chain", str, Sequence[Row], Progress], int]


class FanOut(Protocol):
    """Where the frames of a stage are worked on: here, or in chunks on the machines of a cluster."""

    def __call__(
        self,
        chain: "Chain",
        stage: str,
        partition: str,
        rows: Sequence[Row],
        work: ChunkWork,
        progress: Progress,
    ) -> int:
        """Work on all rows; returns the sum of what `work` returned. What is done stays in the store when it raises."""


def here(
    chain: "Chain",
    stage: str,
    partition: str,
    rows: Sequence[Row],
    work: ChunkWork,
    progress: Progress,
) -> int:
    """All rows as one chunk in this process, by `chain.threads` threads."""
    return work(chain, partition, rows, progress) if rows else 0


class Waiting(FoveaError):
    """The unit's key is not known until something upstream has been made."""

    def __init__(self, stage: str, partition: str):
        super().__init__(f"{stage} of {partition} has to be made first")
        self.stage, self.partition = stage, partition


@dataclass(frozen=True)
class Unit:
    """One stage's work for one partition. `inputs` is what the key was hashed from, for explanations."""

    stage: str
    partition: str
    inputs: Mapping[str, Any]

    @functools.cached_property
    def key(self) -> str:
        """Digest of stage and inputs; the partition's name does not matter, so equal work is found under any name."""
        return digest({"stage": self.stage, **self.inputs})


@dataclass
class Made:
    """What `Chain.make` did: `hit` says that the store had it already."""

    unit: Unit
    hit: bool
    manifest: Mapping[str, Any]
    store: Store
    seconds: float

    @functools.cached_property
    def folder(self) -> Path:
        """A local folder with the unit's objects; those of a remote store are fetched when this is first asked for."""
        return self.store.folder(self.unit.stage, self.unit.key)

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers and texts to show beside the result."""
        return dict(self.manifest["meta"].get("facts", {}))

    def shown(self) -> list[Path]:
        """Pictures and plots to show, in order."""
        return [self.folder / n for n in sorted(self.manifest["objects"]) if n.startswith("shown/")]


class Stage(Protocol):
    """One column of the graph."""

    name: str

    def unit(self, chain: "Chain", partition: str) -> Unit:
        """What would be made, without making it. Raises Waiting, or FoveaError for a partition that cannot be."""

    def make(self, chain: "Chain", unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """Make it: objects through writer.path, `facts` for people in writer.meta["facts"], pictures in `shown/`.

        A stage whose work lies outside of the unit's folder says with `complete(chain, unit)` whether all of it is there. A
        stage that has to fetch something before its key can be known has a method `prepare(chain, partition, progress)`,
        too. One whose work shows what the key depends on (frames that turn out broken) sets `writer.key`.
        """


@dataclass
class Chain:
    """One look at the world: registry and folders are read once, so make a new one to see changes.

    stages: every stage by name, in the order of the graph; assets/stages.py has them.
    """

    home: Home
    stages: Mapping[str, Stage]
    tracker: Tracker = field(default_factory=NullTracker)
    tags: Mapping[str, str] = field(default_factory=dict)
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    device: str = "auto"
    fan_out: FanOut = here

    def __post_init__(self) -> None:
        self.store = Store(
            self.home.data,
            cache=self.home.state / "cache" / "storage",
            cache_bytes=self.home.cache_bytes,
            wait_s=self.home.profile.storage_wait_s,
        )
        self._units: dict[tuple[str, str], Unit] = {}

    @functools.cached_property
    def registry(self) -> dict[str, Dataset]:
        """All datasets by name."""
        return load_registry(self.home.config)

    def dataset(self, name: str) -> Dataset:
        """A registered dataset; raises FoveaError that lists what there is."""
        if name not in self.registry:
            raise FoveaError(
                f"unknown dataset {name!r}; registered: {', '.join(self.registry)} (fovea datasets add NAME PATH)"
            )
        return self.registry[name]

    @functools.cached_property
    def sweeps(self) -> dict[str, Sweep]:
        """Every sweep on every dataset, by `dataset.sweep`; one whose records cannot be is left out with a warning."""
        made: dict[str, Sweep] = {}
        for name in sweep_names():
            try:
                found = [sweep(name, dataset, self.registry) for dataset in self.registry]
            except FoveaError as error:
                _LOG.warning("left out: %s", error)
                continue
            made |= {s.key: s for s in found}
        return made

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Every experiment of every sweep by key."""
        return {e.key: e for s in self.sweeps.values() for e in s.experiments}

    @functools.cached_property
    def trunks(self) -> dict[str, Trunk]:
        """Every trunk by key."""
        return {t.key: t for s in self.sweeps.values() for t in s.trunks}

    def experiment(self, key: str) -> Experiment:
        """Raises FoveaError with the nearest keys."""
        if key not in self.experiments:
            import difflib

            near = difflib.get_close_matches(key, self.experiments, n=3, cutoff=0.3)
            hint = "; nearest: " + ", ".join(near) if near else ""
            raise FoveaError(f"no sweep has an experiment {key!r}{hint} (fovea status --keys lists them)")
        return self.experiments[key]

    def unit(self, stage: str, partition: str) -> Unit:
        """The unit of a stage and partition, computed once a chain."""
        name = (stage, partition)
        if name not in self._units:
            self._units[name] = self.stages[stage].unit(self, partition)
        return self._units[name]

    def ready(self, stage: str, partition: str) -> bool:
        """Whether the store has what this stage would make now."""
        try:
            return self.has(self.unit(stage, partition))
        except Waiting:
            return False

    def has(self, unit: Unit) -> bool:
        """Whether the store has the unit, and what lies outside of its folder (arrays in shards, PNGs)."""
        if not self.store.has(unit.stage, unit.key):
            return False
        complete = getattr(self.stages[unit.stage], "complete", None)
        return complete is None or bool(complete(self, unit))

    def forget(self, *stage_names: str) -> None:
        """Compute keys again after something was made: of the stages named, or of all."""
        for name in list(self._units):
            if not stage_names or name[0] in stage_names:
                del self._units[name]

    def made(self, stage: str, partition: str) -> Made:
        """What is there already; raises Waiting when it is not."""
        unit = self.unit(stage, partition)
        if not self.store.has(stage, unit.key):
            raise Waiting(stage, partition)
        return Made(unit, True, self.store.manifest(stage, unit.key), self.store, 0.0)

    def make(self, stage: str, partition: str, progress: Progress = silent) -> Made:
        """Make a unit or find it; raises FoveaError when it cannot be made. One maker at a time for each unit."""
        began = time.monotonic()
        self._units.pop((stage, partition), None)
        prepare = getattr(self.stages[stage], "prepare", None)
        if prepare is not None:
            prepare(self, partition, progress)
        unit = self.unit(stage, partition)
        hit = self.has(unit)
        if not hit:
            with self.locked(f"{stage}-{unit.key}"):
                hit = self.has(unit)
                if not hit:
                    work = self.home.work / unit.key
                    with (
                        shared_work(self.home.shared, work, unit.key),
                        self.store.writing(stage, unit.key) as writer,
                    ):
                        self.stages[stage].make(self, unit, writer, progress)
                        unit = self._unchanged(unit, writer.key)
                        writer.meta.setdefault("facts", {})
                        writer.meta["inputs"] = dict(unit.inputs)
                        writer.meta["partition"] = partition
                        writer.meta["seconds"] = round(time.monotonic() - began, 3)
                        writer.meta["libraries"] = library_versions()
                    shutil.rmtree(work, ignore_errors=True)
        self._remember(unit)
        manifest = self.store.manifest(stage, unit.key)
        return Made(unit, hit, manifest, self.store, time.monotonic() - began)

    def _unchanged(self, unit: Unit, key: str) -> Unit:
        """The unit keyed anew from the sources as they are on disk now. Raises FoveaError when code was edited meanwhile:
        nobody could say which version made the result."""
        code_version.cache_clear()
        self._units.pop((unit.stage, unit.partition), None)
        now = self.unit(unit.stage, unit.partition)
        if now.key != key:
            said = "; ".join(explain(unit.inputs, now.inputs))
            raise FoveaError(
                f"{unit.stage} {unit.partition}: {said} while it was made; run the same command again"
            )
        return now

    @contextlib.contextmanager
    def locked(self, name: str, timeout: float = -1) -> Iterator[None]:
        """An exclusive lock between processes. Raises FoveaError on a timeout."""
        lock = filelock.FileLock(self.home.locks / f"{name}.lock")
        try:
            with explained(self.home.locks):
                self.home.locks.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=timeout)
        except filelock.Timeout as error:
            raise FoveaError(
                f"{name} is held by another process of this FOVEA_HOME ({self.home.state})"
            ) from error
        try:
            yield
        finally:
            lock.release()

    # ---- what was made last, for explanations

    def _latest_name(self, stage: str, partition: str) -> str:
        return f"{stage}/{digest(partition)[:16]}.json"

    def _remember(self, unit: Unit) -> None:
        name = self._latest_name(unit.stage, unit.partition)
        record = {"partition": unit.partition, "key": unit.key, "inputs": dict(unit.inputs)}
        if self.home.shared is not None:
            if self.latest(unit.stage, unit.partition) != record:
                self.home.shared.write(f"latest/{name}", json.dumps(record, sort_keys=True).encode())
            return
        path = self.home.latest / name
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(path.read_text()) == record:
                return
        with written_beside(path) as beside:
            beside.write_text(json.dumps(record, sort_keys=True))

    def latest(self, stage: str, partition: str) -> dict[str, Any] | None:
        """The record of the last make: partition, key, inputs; None when there was none."""
        name = self._latest_name(stage, partition)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            if self.home.shared is not None:
                return dict(json.loads(self.home.shared.read(f"latest/{name}")))
            return dict(json.loads((self.home.latest / name).read_text()))
        return None

    def all_latest(self, stage: str) -> list[dict[str, Any]]:
        """The last record of every partition of a stage."""
        if self.home.shared is not None:
            names = sorted(self.home.shared.listing(f"latest/{stage}"))
            return [dict(json.loads(text)) for text in self.home.shared.read_many(names).values()]
        folder = self.home.latest / stage
        found = []
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            with contextlib.suppress(ValueError, FileNotFoundError):
                found.append(dict(json.loads(path.read_text())))
        return found

    def why(self, stage: str, partition: str) -> str:
        """Why the unit is stale, in words; "" when it is not."""
        try:
            unit = self.unit(stage, partition)
        except Waiting as waiting:
            if (waiting.stage, waiting.partition) == (stage, partition):
                return "not here yet"
            return f"waits for {waiting.stage} of {waiting.partition}"
        if self.has(unit):
            return ""
        before = self.latest(stage, partition)
        if before is None:
            return "never made"
        return (
            "; ".join(explain(before["inputs"], dict(unit.inputs))) or "its result is no longer in the store"
        )


def evaluation_key(experiment: str, dataset: str) -> str:
    """The partition of one experiment measured on one dataset."""
    return f"{experiment}@{dataset}"


def explain(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences between two unit inputs, in words."""
    said = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said += [f"{name}.{line}" if name != "record" else line for line in explain(old, new)]
        elif name == "code":
            said.append(f"code changed ({old} → {new})")
        elif isinstance(old, str) and isinstance(new, str) and len(old) == len(new) == 32:
            said.append(f"{name.replace('_', ' ')} changed")
        else:
            said.append(f"{name} {json.dumps(old)} → {json.dumps(new)}")
    return said
