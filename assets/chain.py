"""The chain of stages without Dagster: under which key each artifact lies, whether it is there, why it is stale, making it.

Dagster's assets, `fovea run` and the planner all go through here, so a materialisation from the UI obeys the same store
as the command line.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assets.graph import (
    Bench,
    FanOut,
    Given,
    Made,
    Need,
    NotGivenError,
    Part,
    Progress,
    Stage,
    Task,
    Unit,
    View,
    Waiting,
    here,
    silent,
    there,
)
from assets.handover import shared_work
from assets.home import Home
from assets.mirror import open_store
from assets.store import UnitWriter, digest
from assets.versions import PARSED, code_modules, code_version, library_versions
from assets.world import World
from models.errors import FoveaError
from models.tracking import Tracker

Name = tuple[str, str]

EARLIER = 50
"""Keys that a partition's record keeps of what was made before, at most."""


@dataclass
class Chain:
    """One look at the world: registry and folders are read once, so make a new one to see changes. stages: every stage by
    name, each after what it is made from; assets/stages.py has them."""

    home: Home
    stages: Mapping[str, Stage]
    tracker: Tracker = field(default_factory=Tracker)
    tags: Mapping[str, str] = field(default_factory=dict)
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    device: str = "auto"
    fan_out: FanOut = here

    def __post_init__(self) -> None:
        self.store = open_store(self.home.data, self.home.state / "cache" / "storage", self.home.profile)
        PARSED.keep_in(self.home.state / "cache" / "syntax.json")
        self.world = World(self.home, lambda stage: [str(r["partition"]) for r in self.all_latest(stage)])
        #: every artifact and part, for readers who make none
        self.given = Given(self, "fovea")
        self._views: dict[Name, View] = {}
        self._units: dict[Name, Unit] = {}
        self._parts: dict[tuple[str, str, str], Part] = {}
        self._failed: frozenset[str] | None = None
        self._latest: dict[str, dict[str, dict[str, Any]]] = {}

    def needs(self, stage: str, partition: str) -> list[Need]:
        """What an artifact is made from. Raises FoveaError for a partition that cannot be."""
        return list(self.view(stage, partition).given.needs or ())

    def view(self, stage: str, partition: str) -> View:
        """A partition as its stage sees it."""
        name = (stage, partition)
        if name not in self._views:
            maker = self.stages[stage]
            needs = list(maker.needs(self.world, partition))
            for need in needs:
                if need.stage not in maker.reads:
                    raise NotGivenError(f"{stage}.needs names {need.stage}, which {stage}.reads does not")
            self._views[name] = View(self.world, maker, partition, Given(self, f"{stage} {partition}", needs), self)
        return self._views[name]

    def unit(self, stage: str, partition: str) -> Unit:
        """The unit of a stage and partition, computed once a chain. Raises Waiting, or FoveaError for what cannot be."""
        name = (stage, partition)
        if name not in self._units:
            view, maker = self.view(stage, partition), self.stages[stage]
            inputs: dict[str, Any] = dict(maker.inputs(view))
            found: dict[str, list[str]] = {}
            for need in view.given.needs or ():
                if not need.optional or there(self, need):
                    label = " ".join(filter(None, (need.stage, need.part)))
                    found.setdefault(label, []).append(self.part(need.stage, need.partition, need.part).version)
            for label, versions in found.items():
                inputs[label] = versions[0] if len(versions) == 1 else digest(versions)
            entries, apart = self._code(stage, partition)
            inputs["code"] = code_version(*entries, apart=apart)
            self._units[name] = Unit(stage, partition, inputs)
        return self._units[name]

    def _code(self, stage: str, partition: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The modules that a unit's code is reached from, and those that have no part in it."""
        maker = self.stages[stage]
        entries = (type(maker).__module__, *maker.code(self.world, partition))
        return entries, tuple(maker.apart(self.world, partition))

    def _modules(self, stage: str, partition: str) -> dict[str, str]:
        entries, apart = self._code(stage, partition)
        return {name: tree[:12] for name, tree in code_modules(*entries, apart=apart).items()}

    def part(self, stage: str, partition: str, part: str) -> Part:
        """A part of an artifact, computed once a chain; "" is the whole, whose version is its digest."""
        name = (stage, partition, part)
        if name not in self._parts:
            if part:
                self._parts[name] = self.stages[stage].part(self.view(stage, partition), part)
            else:
                self._parts[name] = Part(None, self.unit(stage, partition).digest)
        return self._parts[name]

    def ready(self, stage: str, partition: str) -> bool:
        """Whether the store has what this stage would make now."""
        try:
            return self.has(self.unit(stage, partition))
        except Waiting:
            return False

    def has(self, unit: Unit) -> bool:
        """Whether the store has the unit, and what lies outside of its folder (arrays in shards, PNGs)."""
        if not self.store.has(unit.stage, unit.digest):
            return False
        return self.stages[unit.stage].complete(self.view(unit.stage, unit.partition))

    def forget(self, stage: str = "", partition: str = "") -> None:
        """Compute keys again after something was made: of this artifact and what is made from it, or of all."""
        self._failed = None
        if not stage:
            for known in (self._views, self._units, self._parts, self._latest):
                known.clear()
            return
        stale = self._made_from((stage, partition))
        for name in stale:
            self._units.pop(name, None)
            self._views.pop(name, None)
        for part in [k for k in self._parts if k[:2] in stale]:
            del self._parts[part]

    def _made_from(self, name: Name) -> set[Name]:
        """The artifact and what is known to be made from it, directly and through others."""
        found = {name}
        for known in self._in_order(self._views):
            needs = self._views[known].given.needs or ()
            if any((n.stage, n.partition) in found for n in needs):
                found.add(known)
        return found

    def made(self, stage: str, partition: str) -> Made:
        """What is there already; raises Waiting when it is not."""
        unit = self.unit(stage, partition)
        if not self.store.has(stage, unit.digest):
            raise Waiting(stage, partition)
        return Made(unit, True, self.store.manifest(stage, unit.digest), self.store)

    def make(self, stage: str, partition: str, progress: Progress = silent) -> Made:
        """Make a unit or find it, and ask its checks; what fails a blocking one is not used. Raises FoveaError when it cannot
        be made. One maker at a time for each unit."""
        began = time.monotonic()
        self.forget(stage, partition)
        self.stages[stage].prepare(self.world, partition, progress)
        unit = self.unit(stage, partition)
        hit = self._stands(unit)
        if not hit:
            with self.home.locked(f"{stage}-{unit.digest}"):
                hit = self._stands(unit)
                if not hit:
                    unit = self._fill(unit, progress, began)
        self._remember(unit)
        made = Made(unit, hit, self.store.manifest(stage, unit.digest), self.store)
        self.examine(made)
        return made

    def examine(self, made: Made) -> None:
        """Ask the stage's checks, and keep what a blocking one finds wrong."""
        checks = self.stages[made.unit.stage].checks
        made.held = [(check, held) for check in checks if (held := check.holds(made)) is not None]
        failed = [
            (check.name, said.get("detail")) for check, (passed, said) in made.held if check.blocking and not passed
        ]
        self.note_failed(made.unit, failures(failed))

    def _stands(self, unit: Unit) -> bool:
        return self.has(unit) and not (self.stages[unit.stage].tells and self.moved(unit.stage, unit.partition))

    def _fill(self, unit: Unit, progress: Progress, began: float) -> Unit:
        for need in self.needs(unit.stage, unit.partition):
            if not need.optional:
                key = self.made(need.stage, need.partition).unit.digest
                if failed := self.failed(need.stage, key):
                    raise FoveaError(f"{need.stage} of {need.partition} is not fit to be used: {failed}")
        work = self.home.work / unit.digest
        with shared_work(self.home.shared, work, unit.digest), self.store.writing(unit.stage, unit.digest) as writer:
            self.stages[unit.stage].make(self._task(unit, writer, progress))
            unit = self._unchanged(unit, writer.key)
            writer.meta.setdefault("facts", {})
            writer.meta["inputs"] = dict(unit.inputs)
            writer.meta["partition"] = unit.partition
            writer.meta["seconds"] = round(time.monotonic() - began, 3)
            writer.meta["libraries"] = library_versions()
        shutil.rmtree(work, ignore_errors=True)
        return unit

    def bench(self, stage: str, partition: str) -> Bench:
        """A view for work on a part of an artifact, in any process."""
        return Bench(**vars(self.view(stage, partition)), threads=self.threads, device=self.device)

    def _task(self, unit: Unit, writer: UnitWriter, progress: Progress) -> Task:
        return Task(
            **vars(self.bench(unit.stage, unit.partition)),
            unit=unit,
            writer=writer,
            progress=progress,
            tracker=self.tracker,
            tags=self.tags,
            fan_out=self.fan_out,
            earlier=self._earlier(unit),
            rekeyed=lambda: self._keyed_anew(unit).digest,
        )

    def _keyed_anew(self, unit: Unit) -> Unit:
        self.forget(unit.stage, unit.partition)
        return self.unit(unit.stage, unit.partition)

    def _earlier(self, unit: Unit) -> Made | None:
        before = self.latest(unit.stage, unit.partition)
        if before is None or not self.store.has(unit.stage, before["key"]):
            return None
        was = Unit(unit.stage, unit.partition, before["inputs"])
        manifest = self.store.manifest(unit.stage, before["key"])
        return Made(was, True, manifest, self.store) if was.digest == before["key"] else None

    def _unchanged(self, unit: Unit, key: str) -> Unit:
        """The unit keyed anew from the sources as they are on disk now. Raises FoveaError when code was edited meanwhile:
        nobody could say which version made the result."""
        code_version.cache_clear()
        now = self._keyed_anew(unit)
        if now.digest != key:
            said = "; ".join(explain(unit.inputs, now.inputs))
            raise FoveaError(f"{unit.stage} {unit.partition}: {said} while it was made; run the same command again")
        return now

    # ---- what was made or found last: what tables are made of, and the explanations

    def _latest_name(self, stage: str, partition: str) -> str:
        return f"latest/{stage}/{digest(partition)[:16]}.json"

    def _remember(self, unit: Unit) -> None:
        modules = self._modules(unit.stage, unit.partition)
        record = {"partition": unit.partition, "key": unit.digest, "inputs": dict(unit.inputs), "modules": modules}
        before = self.latest(unit.stage, unit.partition) or {}
        earlier = dict.fromkeys([before["key"], *before.get("earlier", ())] if before else ())
        record["earlier"] = [key for key in earlier if key != unit.digest][:EARLIER]
        if before != record:
            name = self._latest_name(unit.stage, unit.partition)
            self.home.common.write(name, json.dumps(record, sort_keys=True).encode())
        self._latest.get(unit.stage, {})[unit.partition] = record

    def moved(self, stage: str, partition: str) -> bool:
        """Whether the partition's last record is of another unit than the one of now, which the store has."""
        last = self._latest_by_partition(stage).get(partition)
        return last is None or last["key"] != self.unit(stage, partition).digest

    def _latest_by_partition(self, stage: str) -> dict[str, dict[str, Any]]:
        """`all_latest`, read once a chain."""
        if stage not in self._latest:
            self._latest[stage] = {record["partition"]: record for record in self.all_latest(stage)}
        return self._latest[stage]

    def latest(self, stage: str, partition: str) -> dict[str, Any] | None:
        """The record of what was made or found last: partition, key, inputs, modules of its code, and the keys of those
        before it, the last one first; None when there was none."""
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return dict(json.loads(self.home.common.read(self._latest_name(stage, partition))))
        return None

    def all_latest(self, stage: str) -> list[dict[str, Any]]:
        """The last record of every partition of a stage."""
        found = []
        for _, text in sorted(self.home.common.read_many(self.home.common.listing(f"latest/{stage}")).items()):
            with contextlib.suppress(json.JSONDecodeError):
                found.append(dict(json.loads(text)))
        return found

    # ---- what must not be used

    def note_failed(self, unit: Unit, found: str) -> None:
        """Keep what a blocking check found wrong with a unit, or, with "", that there is nothing."""
        name = f"failed/{unit.stage}/{unit.digest}"
        if found:
            self.home.common.write(name, found.encode())
        elif name in self._failures():
            self.home.common.delete(name)
        self._failed = None

    def failed(self, stage: str, key: str) -> str:
        """What a blocking check found wrong with a unit when it was made; "" else."""
        name = f"failed/{stage}/{key}"
        with contextlib.suppress(FileNotFoundError):
            return self.home.common.read(name).decode() if name in self._failures() else ""
        return ""

    def unfit(self, stage: str, partition: str) -> bool:
        """Whether a blocking check failed the artifact that would be made now. Raises Waiting, or FoveaError."""
        return bool(self.failed(stage, self.unit(stage, partition).digest))

    def _failures(self) -> frozenset[str]:
        if self._failed is None:
            self._failed = frozenset(self.home.common.listing("failed"))
        return self._failed

    def why(self, stage: str, partition: str) -> str:
        """Why the unit is stale, in words; "" when it is not. One with a failed check stays so, and the check is tried
        again."""
        try:
            unit = self.unit(stage, partition)
        except Waiting as waiting:
            if (waiting.stage, waiting.partition) == (stage, partition):
                return "not here yet"
            return f"waits for {waiting.stage} of {waiting.partition}"
        if self.has(unit):
            return self.failed(stage, unit.digest)
        before = self.latest(stage, partition)
        if before is None:
            return "; ".join(["never made", *self._nearest(unit)])
        was, now = before.get("modules", {}), self._modules(stage, partition)
        edited = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)] if was else []
        said = explain(before["inputs"], dict(unit.inputs), edited)
        return "; ".join(said) or "its result is no longer in the store"

    def _nearest(self, unit: Unit) -> list[str]:
        """How the unit's record differs from the nearest that was made for the same place, where that is in few values."""
        record = unit.inputs.get("record")
        if not isinstance(record, Mapping):
            return []
        made = (before["inputs"] for before in self._latest_by_partition(unit.stage).values())
        alike = [inputs["record"] for inputs in made if _place(inputs) == _place(unit.inputs)]
        nearest = min((explain(one, record) for one in alike), key=len, default=[])
        return [f"the nearest has other values: {', '.join(nearest)}"] if 1 <= len(nearest) <= 3 else []

    def upstream(self, *wanted: Name) -> list[Name]:
        """The wanted (stage, partition) with everything that they are made from, each after what it is made from."""
        found: dict[Name, None] = {}
        waiting = list(wanted)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                with contextlib.suppress(FoveaError):  # said when it is planned
                    needs = self.stages[name[0]].needs(self.world, name[1])
                    waiting += reversed([(n.stage, n.partition) for n in needs])
        return self._in_order(found)

    def _in_order(self, names: Iterable[Name]) -> list[Name]:
        """Each after what it is made from."""
        order = {stage: place for place, stage in enumerate(self.stages)}
        return sorted(names, key=lambda name: order[name[0]])


def failures(failed: Sequence[tuple[str, Any]]) -> str:
    """That checks did not hold: the first with what it saw, the others by name; "" for none."""
    names = [name for name, _ in failed]
    if not failed:
        return ""
    said = f"check {names[0]} failed" + (f": {failed[0][1]}" if failed[0][1] else "")
    return said + (f"; {', '.join(names[1:])} failed, too" if names[1:] else "")


def _place(inputs: Mapping[str, Any]) -> list[Any]:
    """What says which place of a sweep a record is for, from which pictures and trunk; the rest are settings that
    somebody changes."""
    made_from = [value for name, value in sorted(inputs.items()) if name.startswith(("rgba_frames", "trunk_codec"))]
    names = ("codec", "mechanism", "maps", "lmbda", "channels", "iterations", "seed")
    return [*made_from, *((inputs.get("record") or {}).get(name) for name in names)]


def explain(before: Mapping[str, Any], now: Mapping[str, Any], edited: Sequence[str] = ()) -> list[str]:
    """Differences between two unit inputs, in words. edited: the modules in which the code differs, where they are known."""
    said = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            said += [f"{name}.{line}" if name != "record" else line for line in explain(old, new)]
        elif name == "code":
            more = f" and {len(edited) - 3} more" if len(edited) > 3 else ""
            said.append(f"code changed ({', '.join(edited[:3]) or f'{old} → {new}'}{more})")
        elif all(value is None or (isinstance(value, str) and len(value) == 32) for value in (old, new)):
            said.append(f"{name.replace('_', ' ')}{': not here yet' if new is None else ' changed'}")
        else:
            said.append(f"{name} {json.dumps(old)} → {json.dumps(new)}")
    return said
