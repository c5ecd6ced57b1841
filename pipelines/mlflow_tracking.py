"""The tracker over MLflow: each call is one line on the local disk, and a thread brings MLflow up to it.

    training ── log_metrics ──→ journal ── MlflowStore.project (thread, finish, flush, close) ──→ MLflow

A server that is down costs training nothing: the story waits on disk and is sent at the next chance, by this process or
a later one. MLflow is imported when the first run opens.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import Timeout

from assets.home import Home
from models.errors import FoveaError
from models.tracking import Run, Tracker
from pipelines.journal import Journal, Progress, Record
from pipelines.mlflow_model import folder_digest
from pipelines.mlflow_store import LOCK_S, NAME_TAG, NOTE_TAG, MlflowStore, clean_name, log, unanswered
from pipelines.mlflow_view import asset_address, base_address, row_name, run_address, table_address

if TYPE_CHECKING:
    from assets.chain import Chain

STATUSES = ("FINISHED", "FAILED", "KILLED")
MAX_PARAM, MAX_TAG = 6000, 8000
SEND_EVERY_S, SYSTEM_METRICS_S = 3.0, 10.0
REST_S = 60.0
SERVER = ""

_adopted: set[tuple[int, Path, str]] = set()


def shown(value: Any, limit: int = MAX_PARAM) -> str:
    """A param or tag as text; one that is too long ends with its length and digest, so that different values differ."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    if len(text) <= limit:
        return text
    tail = f"… ({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return text[: limit - len(tail)] + tail


def _now() -> int:
    return int(time.time() * 1000)


class MlflowTracker(Tracker):
    """models.tracking.Tracker over MLflow.

    folder: `Home.mlflow`; holds the embedded store (SQLite and `artifacts/`) and the journals. uri: a server or database,
    "" for the embedded store. Cheap to make; trackers of one folder, in one process or
    several, share what is on disk and nothing else.
    """

    def __init__(self, folder: Path, uri: str):
        folder = folder.absolute()
        self.store = MlflowStore(folder, uri)
        self.journals = folder / "journal"
        self._waiting: dict[str, Journal] = {}
        #: Runs for which the machine is measured, with the monotonic time of their first metric.
        self.training: dict[str, tuple[Journal, float]] = {}
        #: What is left alone until a monotonic time, and what was said to fail: a journal's name, or SERVER.
        self._rests_until: dict[str, float] = {}
        self._told: set[str] = set()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    # ---- runs ------------------------------------------------------------------------------------------------------

    def run(
        self, *, experiment: str, name: str, key: str, parent_key: str = "", tags: Mapping[str, str] | None = None
    ) -> "TrackedRun":
        """See models.tracking.Tracker. A parent that was not opened yet is made, in the same experiment, and gets its
        own name when it is opened. Raises FoveaError for a key that cannot be searched for."""
        for text in (key, parent_key):
            if "'" in text and '"' in text:
                raise FoveaError(f"run key {text!r}: a key may not hold both kinds of quotes")
        if not key:
            raise FoveaError("a run needs a key")
        parent_key = "" if parent_key == key else parent_key
        if parent_key:
            self._begun(experiment, parent_key, parent_key, "")
        run = TrackedRun(self, self._begun(experiment, row_name(name), key, parent_key))
        run.set_tags(self._linked(tags or {}))
        self.send(run.journal)
        return run

    def _begun(self, experiment: str, name: str, key: str, parent: str) -> Journal:
        journal, server = Journal.of(self.journals, key), self.store.id
        header = journal.header()
        if not header:
            named = {"experiment": experiment, "name": name, "key": key, "parent": parent}
            self.note(journal, {"op": "run", **named, "t": _now()})
        elif name not in (key, header["name"]):
            self.note(journal, {"op": "tags", "tags": {NAME_TAG: name}})
        if journal.progress(server) is None:
            with contextlib.suppress(Timeout), journal.lock.acquire(timeout=LOCK_S):
                journal.save_progress(server, journal.progress(server) or Progress())
        return journal

    def run_id(self, key: str) -> str:
        """See models.tracking.Tracker. Known where this home told of the run."""
        return (Journal.of(self.journals, key).progress(self.store.id) or Progress()).run_id

    def run_url(self, run_id: str) -> str:
        """See models.tracking.Tracker. "" for a run that this home does not know."""
        return self._address(run_id, lambda base, known: run_address(base, known.experiment_id, run_id))

    def table_url(self, run_id: str, sweep: str) -> str:
        return self._address(run_id, lambda base, known: table_address(base, known.experiment_id, sweep))

    def asset_url(self, stage: str, partition: str) -> str:
        """See models.tracking.Tracker."""
        return asset_address(self.store.folder, self.store.name, stage, partition)

    def _linked(self, tags: Mapping[str, str]) -> Mapping[str, str]:
        """A unit's tags, the partition in its description as a link to Dagster's page of it."""
        partition, about = tags.get("fovea.partition", ""), tags.get(NOTE_TAG, "")
        address = self.asset_url(tags.get("fovea.stage", ""), partition)
        if not (partition and about and address):
            return tags
        return {**tags, NOTE_TAG: about.replace(f"`{partition}`", f"[`{partition}`]({address})", 1)}

    def tables(self) -> dict[str, str]:
        """Sweep → address of its run table, for those that this home told of; an experiment's where it has no sweep."""
        base = base_address(self.store.folder, self.store.name)
        sweeps: dict[str, str] = {}
        whole: dict[str, str] = {}
        for journal in Journal.all(self.journals):
            header, known = journal.header(), journal.progress(self.store.id)
            if not (known and known.experiment_id and header.get("experiment")):
                continue
            whole[header["experiment"]] = table_address(base, known.experiment_id)
            before, _, sweep = str(header["key"]).partition("sweep ")
            if sweep and not before:
                sweeps[sweep] = table_address(base, known.experiment_id, sweep)
        with_sweeps = {f"fovea-{sweep.rpartition('.')[0]}" for sweep in sweeps}
        return {**dict(sorted(sweeps.items())), **{n: at for n, at in whole.items() if n not in with_sweeps}}

    def _address(self, run_id: str, page: Callable[[str, Progress], str]) -> str:
        for journal in Journal.all(self.journals):
            known = journal.progress(self.store.id)
            if run_id and known is not None and known.run_id == run_id:
                return page(base_address(self.store.folder, self.store.name), known)
        return ""

    def register_model(self, run: Run, *, folder: Path, name: str, alias: str = "", about: str = "") -> str:
        """See models.tracking.Tracker. The same folder of the same run is one version, however often it is registered.
        Returns `models:/name@alias` or `models:/name/version`; "" while it waits for the server."""
        assert isinstance(run, TrackedRun)
        if not (folder / "codec.json").is_file():
            raise FoveaError(f"no codec in {folder}: codec.json is missing")
        digest = folder_digest(folder)
        run.keep(folder, "codec", {"op": "model", "name": name, "alias": alias, "digest": digest, "about": about})
        if not self.send(run.journal):
            return ""
        return f"models:/{name}" + (f"@{alias}" if alias else f"/{self.store.version_of(name, run.run_id, digest)}")

    # ---- sending ---------------------------------------------------------------------------------------------------

    def note(self, journal: Journal, record: Record | None) -> None:
        """Write a record down, where there is one, and have the thread send what the journal holds."""
        if record is not None:
            journal.append(record)
        with self._lock:
            self._waiting[journal.name] = journal
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._work, name="fovea-mlflow", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _work(self) -> None:
        sampler, measured = None, time.monotonic()
        while not self._closed.wait(SEND_EVERY_S):
            try:
                now = time.monotonic()
                sampler = (sampler or SystemSampler()) if self.training else None
                if sampler:
                    sampler.read()
                if sampler and now - measured >= SYSTEM_METRICS_S:
                    measured = now
                    self._measured(sampler.mean(), now)
                self._send_waiting(patience_s=0)
                with self._lock:
                    if not self._waiting and not self.training:
                        self._thread = None
                        return atexit.unregister(self.close)
            except Exception as error:  # the thread must outlive anything: what is unsent stays on disk
                log.warning("MLflow's sender: %s", self.store.scrubbed(repr(error)))

    def _measured(self, values: dict[str, float], now: float) -> None:
        for journal, since in list(self.training.values()):
            if now - since >= SYSTEM_METRICS_S:
                # Steps count from the run's first start, so that they go on rising after a resume.
                step = int((_now() - int(journal.header()["t"])) / 1000 / SYSTEM_METRICS_S)
                self.note(journal, {"op": "metrics", "system": True, "t": _now(), "rows": [[step, values]]})

    def send(self, journal: Journal, patience_s: float = LOCK_S) -> bool:
        """Send all of one story. False when something is left: the server failed a moment ago or now, or refused this very
        run, or somebody else sends it. Never raises for what a server does."""
        if time.monotonic() < max(self._rests_until.get(name, 0.0) for name in (SERVER, journal.name)):
            return False
        connected = False
        try:
            self.store.connect()
            connected = True
            with journal.lock.acquire(timeout=patience_s):
                self.store.project(journal)
        except Timeout:
            return False
        except Exception as error:  # requests, SQLAlchemy, object stores: each has its own errors
            if connected and not unanswered(error):
                self._refused(journal, error)
            else:
                self._failed(error)
            return False
        if SERVER in self._told:
            log.warning("MLflow at %s answers again; what waited is being sent", self.store.name)
        self._told -= {SERVER, journal.name}
        with self._lock:
            if not journal.waits(self.store.id):
                self._waiting.pop(journal.name, None)
        return True

    def _send_waiting(self, patience_s: float = LOCK_S) -> None:
        for journal in list(self._waiting.values()):
            self.send(journal, patience_s)

    def _failed(self, error: Exception) -> None:
        self._rests_until[SERVER] = time.monotonic() + REST_S
        # Ctrl-C came while MLflow was imported: the next command sends what waits
        if SERVER in self._told or "partially initialized module" in str(error):
            return
        self._told.add(SERVER)
        what, reason = "cannot be opened", f"{type(error).__name__}: {error}"
        if unanswered(error):
            what, reason = "does not answer", str(error).rpartition("failed with exception")[2]
        log.warning(
            "MLflow at %s %s (%s); %d values wait in %s and are sent as soon as it does, by this or a later command",
            self.store.name, what, self.store.scrubbed(reason), self.waiting(), self.journals,
        )  # fmt: skip

    def _refused(self, journal: Journal, error: Exception) -> None:
        """One story that cannot be sent: the others go on."""
        self._rests_until[journal.name] = time.monotonic() + REST_S
        if journal.name in self._told:
            return
        self._told.add(journal.name)
        log.warning(
            "MLflow at %s does not take the run %r (%s); its %d values wait in %s, other runs are sent",
            self.store.name, journal.header().get("name", ""), self.store.scrubbed(f"{type(error).__name__}: {error}"),
            journal.waiting(self.store.id), journal.path,
        )  # fmt: skip

    def waiting(self) -> int:
        """How much is not sent yet."""
        return sum(journal.waiting(self.store.id) for journal in list(self._waiting.values()))

    def flush(self) -> None:
        """See models.tracking.Tracker. Also sends what earlier processes left."""
        place = os.getpid(), self.journals, self.store.id
        if place not in _adopted:  # once a process: others, which are at work, send their own
            _adopted.add(place)
            for journal in filter(lambda j: j.waits(self.store.id), Journal.all(self.journals)):
                self.note(journal, None)
        self._rests_until.clear()
        self._send_waiting()
        if left := self.waiting():
            log.warning("%d values for MLflow at %s wait in %s", left, self.store.name, self.journals)

    def close(self) -> None:
        """Stop the thread and send what is left, unless the server failed a moment ago. The end of the process does the
        same."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return  # a forked child has no part in this
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if self.journals.exists():  # else the home was deleted meanwhile
            self._send_waiting()


def tracked_chain(home: Home | None = None, **options: Any) -> "Chain":
    """A chain over all stages with the tracker that the profile names. options: as Chain takes them."""
    from assets.stages import open_chain

    home = home or Home.from_environment()
    return open_chain(home, tracker=MlflowTracker(home.mlflow, home.profile.tracking_uri()), **options)


class TrackedRun(Run):
    """A run that writes its story down, and has it sent."""

    def __init__(self, tracker: MlflowTracker, journal: Journal):
        self.journal, self._tracker = journal, tracker

    @property
    def run_id(self) -> str:
        return (self.journal.progress(self._tracker.store.id) or Progress()).run_id

    def _tell(self, op: str, **told: Any) -> None:
        if all(told.values()):
            self._tracker.note(self.journal, {"op": op, "t": _now(), **told})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """See models.tracking.Run. Values are text or JSON, at most 6,000 characters; a changed value is refused with a
        warning."""
        self._tell("params", params={clean_name(k): shown(v) for k, v in params.items()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._tell("tags", tags={clean_name(k): shown(v, MAX_TAG) for k, v in tags.items()})

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """See models.tracking.Run. Six digits of a number are kept, and NaN and infinity; what is no number is left out with a
        warning."""
        self._tell("metrics", rows=[(int(step), _rounded(values)) for step, values in rows])
        self._tracker.training.setdefault(self.journal.name, (self.journal, time.monotonic()))

    def log_latest(self, values: Mapping[str, float]) -> None:
        """See models.tracking.Run."""
        self._tell("latest", now=_rounded(values))

    def log_inputs(self, digests: Mapping[str, str], context: str) -> None:
        """See models.tracking.Run. MLflow shows 36 characters of a digest; the whole stands in the source."""
        self._tell("inputs", digests=dict(digests), context=context)

    def keep(self, what: Path | bytes, name: str, record: Record) -> None:
        """A record with a copy of a file, a folder or bytes."""
        self.journal.keep(what, name, record)
        self._tracker.note(self.journal, None)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """See models.tracking.Run. Copied at once, so that the file may change or go. Folders are taken whole."""
        if not path.exists():
            raise FoveaError(f"artifact {path} does not exist")
        self.keep(path, path.name, {"op": "artifact", "folder": folder.strip("/")})

    def log_figure(self, png: bytes, name: str) -> None:
        folder, _, file = clean_name(name).rpartition("/")
        self.keep(png, file, {"op": "artifact", "folder": folder})

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """See models.tracking.Run. Logging a table again replaces it."""
        rows = list(rows)
        columns = list(dict.fromkeys(c for row in rows for c in row))
        table = {"columns": columns, "data": [[_cell(row.get(c)) for c in columns] for row in rows]}
        folder, _, file = clean_name(f"{name.removesuffix('.json')}.json").rpartition("/")
        self.keep(json.dumps(table, default=str).encode(), file, {"op": "table", "folder": folder})

    def finish(self, status: str = "FINISHED") -> None:
        """See models.tracking.Run. Sends what waits, unless the server failed a moment ago."""
        if status not in STATUSES:
            raise FoveaError(f"status {status!r} is not one of {', '.join(STATUSES)}")
        self._tracker.training.pop(self.journal.name, None)
        self._tell("finish", status=status)
        self._tracker.send(self.journal)


class SystemSampler:
    """What the machine does while runs train, read by MLflow's own monitors (its thread would write to a server that must be
    there). `mean()` gives the average of readings since the last call. Works without a GPU."""

    def __init__(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        # A GPU may lack one reading (MIG has no utilisation): it would be said every few seconds.
        logging.getLogger(GPUMonitor.__module__).setLevel(logging.ERROR)
        psutil.cpu_percent()  # the first reading has nothing to compare with
        self._monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]  # MLflow has no types there
        with contextlib.suppress(Exception):  # no driver, no library, no permission: nothing to measure
            self._monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]  # nor here

    def read(self) -> None:
        """Take one reading."""
        for monitor in self._monitors:
            monitor.collect_metrics()

    def mean(self) -> dict[str, float]:
        """`system/…` metrics; without a reading only the process's memory."""
        found = {"process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6}
        for monitor in self._monitors:
            found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{name}": value for name, value in found.items()}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Pages of MLflow show every digit of a number."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in values.items()}


def _cell(value: Any) -> Any:
    """A value as JSON has it: numpy's scalars as Python's, NaN as null, infinity as text."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
