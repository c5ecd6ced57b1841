"""The contract of the graph: what a stage says of itself, and what it is given to make an artifact. Imports no stage.

A stage makes an artifact for a partition. It says with `needs` which artifacts, or which named parts of them, it is made
from, and with `inputs` what else: record, settings, files. Its digest covers both and the code of the
stage; Dagster's assets, the planner and `fovea train` follow from the same words. `make` gets at other artifacts
through `task.given` alone, which knows those that were named.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from assets.datasets import Dataset
from assets.home import Home
from assets.store import Shelf, Store, UnitWriter, digest
from assets.world import World
from models.errors import FoveaError
from models.tracking import Tracker

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from assets.chain import Chain

Progress = Callable[[float, float, str], None]


def silent(done: float, total: float, note: str = "") -> None:
    """A progress callback that shows nothing."""


class Waiting(FoveaError):
    """The unit's digest is not known, or cannot be made, until something upstream has been made."""

    def __init__(self, stage: str, partition: str):
        super().__init__(f"{stage} of {partition} has to be made first")
        self.stage, self.partition = stage, partition


class NotGivenError(LookupError):
    """A stage asked for an artifact, a part or a shelf that it did not name: its digest would not know of it."""


class Need(NamedTuple):
    """An artifact, or a part of one, that another is made from. optional: when absent the other is made without it."""

    stage: str
    partition: str
    part: str = ""
    optional: bool = False


class Part(NamedTuple):
    """What a part of an artifact holds, known whether or not it is made, and a version that changes with it."""

    value: Any
    version: str


#: whether a check holds, and numbers and texts to show beside it; a text of several lines is Markdown
Held = tuple[bool, dict[str, Any]]


class Check(NamedTuple):
    """What must hold of an artifact. holds: of what was made; None where it does not apply. blocking: when it does not
    hold, nothing is made from the artifact."""

    name: str
    about: str
    holds: "Callable[[Made], Held | None]"
    blocking: bool = False


def check(*, blocking: bool = False) -> "Callable[[Callable[[Made], Held | None]], Check]":
    """The function as a check of its name, its docstring as what is asked."""
    return lambda holds: Check(holds.__name__, " ".join((holds.__doc__ or "").split()), holds, blocking)


@dataclass(frozen=True)
class Unit:
    """One stage's work for one partition. `inputs` is what the digest was made from, for explanations."""

    stage: str
    partition: str
    inputs: Mapping[str, Any]

    @functools.cached_property
    def digest(self) -> str:
        """Of stage and inputs; the partition's name does not matter, so equal work is found under any name."""
        return digest({"stage": self.stage, **self.inputs})


@dataclass
class Made:
    """An artifact in the store. `hit` says that it was there already when it was asked for."""

    unit: Unit
    hit: bool
    manifest: Mapping[str, Any]
    store: Store
    #: what the stage's checks say of it, those that apply; known once it was made or found by `Chain.make`
    held: "Sequence[tuple[Check, Held]]" = ()

    @functools.cached_property
    def folder(self) -> Path:
        """A local folder with the unit's objects; those of a remote store are fetched when this is first asked for."""
        return self.store.folder(self.unit.stage, self.unit.digest)

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers and texts to show beside the result."""
        return dict(self.manifest["meta"].get("facts", {}))

    def table(self, name: str) -> "pd.DataFrame":
        """One of its Parquet files."""
        import pandas as pd

        return pd.read_parquet(self.folder / name)

    def shown(self) -> list[Path]:
        """Pictures and plots to show, in order."""
        return [self.folder / n for n in sorted(self.manifest["objects"]) if n.startswith("shown/")]


@dataclass
class Artifact:
    """What a stage made, or would make, for a partition. parts: those that may be read, None for all."""

    stage: str
    partition: str
    _keeper: "Chain"
    parts: frozenset[str] | None = None

    @property
    def unit(self) -> Unit:
        """Its digest and what that is made from."""
        return self._keeper.unit(self.stage, self.partition)

    @functools.cached_property
    def made(self) -> Made:
        """The artifact in the store; raises Waiting when it is not there."""
        return self._keeper.made(self.stage, self.partition)

    @property
    def folder(self) -> Path:
        """A local folder with its files."""
        return self.made.folder

    @property
    def facts(self) -> dict[str, Any]:
        """Numbers and texts of it."""
        return self.made.facts

    @property
    def meta(self) -> Mapping[str, Any]:
        """What its manifest says beside facts."""
        found: Mapping[str, Any] = self.made.manifest["meta"]
        return found

    def table(self, name: str) -> "pd.DataFrame":
        """One of its Parquet files."""
        return self.made.table(name)

    def part(self, name: str) -> Any:
        """The content of a part, also of an artifact that is not made yet. Raises NotGivenError for one that no need names."""
        return self._allowed(name).value

    def version(self, name: str) -> str:
        """The version of a part."""
        return self._allowed(name).version

    def _allowed(self, name: str) -> Part:
        if self.parts is not None and name not in self.parts:
            named = ", ".join(map(repr, sorted(self.parts)))
            raise NotGivenError(f"part {name!r} of {self.stage} {self.partition} is not among the needs ({named})")
        return self._keeper.part(self.stage, self.partition, name)

    def array(self, shelf: str, key: str) -> "NDArray[np.uint8]":
        """An array that the artifact points to, memory-mapped where the store is local. Raises Waiting before it is made."""
        if shelf not in self._keeper.stages[self.stage].points_into:
            raise NotGivenError(f"{self.stage} {self.partition} has no arrays of {shelf}")
        return self.made.store.shelf(shelf).array(key)

    def release(self) -> None:
        """Forget mapped arrays, so that long loops keep flat memory."""
        self._keeper.store.release()


@dataclass
class Given:
    """What needs name, and nothing else: `given[stage]`, or `given[stage, partition]` where there are several of a stage.
    needs: None gives everything, for readers who make no artifact."""

    _keeper: "Chain"
    asker: str
    needs: Sequence[Need] | None = None

    def __getitem__(self, name: str | tuple[str, str]) -> Artifact:
        stage, partition = name if isinstance(name, tuple) else (name, "")
        if self.needs is None:
            return Artifact(stage, partition, self._keeper)
        fitting = [n for n in self.needs if n.stage == stage and partition in ("", n.partition)]
        found = {n.partition for n in fitting}
        if len(found) != 1:
            said = f"{len(found)} artifacts" if found else "no artifact"
            raise NotGivenError(f"{self.asker}: needs() names {said} of {stage} {partition}".rstrip())
        return Artifact(stage, found.pop(), self._keeper, frozenset(n.part for n in fitting))

    def all(self, stage: str) -> list[Artifact]:
        """Every artifact of a stage, in the order of the needs; optional ones that are absent are left out."""
        needs = [n for n in self.needs or () if n.stage == stage]
        present = dict.fromkeys(n.partition for n in needs if not n.optional or there(self._keeper, n))
        return [self[stage, partition] for partition in present]


def there(keeper: "Chain", need: Need) -> bool:
    """Whether an artifact that may be absent is in the store, and fit to be used."""
    try:
        unit = keeper.unit(need.stage, need.partition)
        return keeper.has(unit) and not keeper.failed(unit.stage, unit.digest)
    except FoveaError:
        return False


#: what a stage knows of one frame
Row = dict[str, Any]


@dataclass
class View:
    """A partition as its stage sees it: the registry, what its needs give, and its own place in the store."""

    world: World
    stage: "Stage"
    partition: str
    given: Given
    _keeper: "Chain"

    @property
    def home(self) -> Home:
        """Folders of this installation."""
        return self.world.home

    def dataset(self, name: str) -> Dataset:
        """A registered dataset."""
        return self.world.dataset(name)

    def own(self, part: str) -> Any:
        """A part of this very artifact."""
        return self._keeper.part(self.stage.name, self.partition, part).value

    def keyed(self) -> Unit:
        """The unit of this very artifact."""
        return self._keeper.unit(self.stage.name, self.partition)

    def mine(self) -> Made:
        """This very artifact as it is in the store; raises Waiting when it is not."""
        return self._keeper.made(self.stage.name, self.partition)

    def shelf(self, name: str = "") -> Shelf:
        """The stage's shelf, or another one that it owns."""
        name = name or self.stage.name
        if name not in (self.stage.name, *self.stage.shelves):
            raise NotGivenError(f"{self.stage.name} does not own the shelf {name}")
        return self._keeper.store.shelf(name)


#: works on rows of a partition and puts what it makes on the stage's shelf: returns the bytes put. A function of a module,
#: so that another process can find it by name
ChunkWork = Callable[["Bench", Sequence[Row], Progress], int]


class FanOut(Protocol):
    """Where the frames of a stage are worked on: here, or in chunks on the machines of a cluster."""

    def __call__(self, bench: "Bench", rows: Sequence[Row], work: ChunkWork, progress: Progress) -> int:
        """Work on all rows; returns the sum of what `work` returned. What is done stays in the store when it raises."""


def here(bench: "Bench", rows: Sequence[Row], work: ChunkWork, progress: Progress) -> int:
    """All rows as one chunk in this process, by `bench.threads` threads."""
    return work(bench, rows, progress) if rows else 0


@dataclass
class Bench(View):
    """A view with what work takes: threads and a device (`auto`, `cpu`, `cuda:1`)."""

    threads: int
    device: str


@dataclass
class Task(Bench):
    """An artifact to make: files go through `writer.path`, facts into `writer.meta["facts"]`, pictures into `shown/`.

    earlier: the artifact of this stage and partition that was made last, None for the first. rekeyed: its digest as the
    work so far has it.
    """

    unit: Unit
    writer: UnitWriter
    progress: Progress
    tracker: Tracker
    tags: Mapping[str, str]
    fan_out: FanOut
    earlier: Made | None
    rekeyed: Callable[[], str]

    def tag(self) -> dict[str, str]:
        """The tags of the run that tells the tracker of this artifact."""
        own = {"stage": self.unit.stage, "unit": self.unit.digest, "partition": self.unit.partition}
        own["code_version"] = str(self.unit.inputs.get("code", ""))
        return {**self.tags, **{f"fovea.{name}": value for name, value in own.items()}}


class Stage(ABC):
    """One column of the graph; the docstring of a stage is what the UI says of it.

    name: of the stage, its asset and its place in the store. over: what of the world has a partition each. reads:
    stages that `needs` may name, drawn as edges. group, kinds, checks: as the UI has them. gpu: it waits for one of as
    many places as there are GPUs. retried: a failure is tried again. share: it has its share of the cores (cores ÷
    parallel steps); other stages take all. tells: its making tells the tracker what holds of a sweep, so one that is
    found again is made once more, in seconds. fanned_out: its frames are worked on in chunks. onlookers: modules that
    draw its artifacts or examine them, so that no digest covers them. shelves: other places in the store that it owns.
    points_into: shelves that its artifacts have arrays on.
    """

    name: ClassVar[str]
    over: ClassVar[Literal["", "registry", "sweeps", "trunks", "experiments"]] = ""
    reads: ClassVar[tuple[str, ...]] = ()
    group: ClassVar[str] = ""
    kinds: ClassVar[frozenset[str]] = frozenset()
    gpu: ClassVar[bool] = False
    retried: ClassVar[bool] = True
    share: ClassVar[bool] = False
    tells: ClassVar[bool] = False
    fanned_out: ClassVar[bool] = False
    checks: ClassVar[tuple[Check, ...]] = ()
    onlookers: ClassVar[tuple[str, ...]] = ()
    shelves: ClassVar[tuple[str, ...]] = ()
    points_into: ClassVar[tuple[str, ...]] = ()

    def partitions(self, world: World) -> list[str]:
        """The partitions that the UI offers; none for a stage that only other stages ask."""
        return list(getattr(world, self.over)) if self.over else []

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        """What the artifact is made from, known without the store. Raises FoveaError for a partition that cannot be."""
        return ()

    def inputs(self, view: View) -> Mapping[str, Any]:
        """What else shapes it: record, settings, files; part of the digest. Raises Waiting, or FoveaError."""
        return {}

    def code(self, world: World, partition: str) -> Sequence[str]:
        """Modules that shape it and that the stage's own module does not import by name."""
        return ()

    def apart(self, world: World, partition: str) -> Sequence[str]:
        """Modules that the stage's own module reaches and that don't shape this artifact; default: `onlookers`."""
        return self.onlookers

    def part(self, view: View, name: str) -> Part:
        """A part of the artifact, known before it is made where it can be. Raises Waiting where it cannot."""
        raise FoveaError(f"{self.name} has no part {name!r}")

    def prepare(self, world: World, partition: str, progress: Progress) -> None:  # noqa: B027 - most have nothing to fetch
        """Fetch what has to be here before the digest can be known."""

    def complete(self, view: View) -> bool:
        """Whether what lies outside of the unit's folder is there, too."""
        return True

    @abstractmethod
    def make(self, task: Task) -> None:
        """Make it. One whose work shows what the digest depends on (frames that turn out broken) sets
        `task.writer.key` to `task.rekeyed()`."""


def edges(stage: Stage, world: World) -> Iterator[tuple[Need, str]]:
    """Every need of every partition, with that partition; one that cannot be (its dataset is gone) is left out."""
    for partition in stage.partitions(world):
        try:
            needs = stage.needs(world, partition)
        except FoveaError:
            continue
        yield from ((need, partition) for need in needs)
