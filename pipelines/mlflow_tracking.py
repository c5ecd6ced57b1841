"""The tracker over MLflow: runs by key, a journal before the server, nothing lost and nothing twice.

    training ── log_metrics ──→ journal (disk) ── sender (thread, flush, finish) ──→ MLflow
                                    └ copied artifacts (spool) ──────────────────────┘

Each call writes to the run's journal (pipelines/journal.py) and returns; sending is a reader of that journal which
remembers how far the server has acknowledged. A server that is down costs training nothing: the story waits on disk and
is sent by the next flush, the next finish or the next process.

Exactly once: the first (name, step) in a journal wins. After a crash between sending and acknowledging, after another
process has sent, or with deleted local state, the server is asked for the steps that it has before anything is sent
again; a time stamp fixed at the call makes a repeated row identical, which MLflow's database refuses to double.

The default store is SQLite beside its artifacts; MLFLOW_TRACKING_URI or an argument names a server. MLflow is imported
when the first run opens, and its global state (active run, tracking URI) is never used.
"""

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import posixpath
import re
import shutil
import socket
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from assets.log import lasting_logger
from models.errors import FoveaError
from models.tracking import Run
from pipelines.journal import Journal, Progress, Record

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from pipelines.system_metrics import SystemSampler

KEY_TAG = "fovea.key"
TABLES_TAG = "mlflow.loggedArtifacts"
STATUSES = ("FINISHED", "FAILED", "KILLED")
MAX_METRICS, MAX_PAIRS = 1000, 50  # MLflow takes 1,000 metrics a batch; 50 long values stay below its 1 MB
MAX_PARAM, MAX_TAG, MAX_NAME, MAX_DIGEST = 6000, 8000, 250, 36
SEND_EVERY_S = 3.0
SYSTEM_METRICS_S = 10.0
PROBE_S = 2.0
LOCK_S = 20.0
RETRY_S = (10.0, 120.0)

#: Only this process and its children: a server that hangs must not hold a training run for MLflow's default of minutes.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_log = lasting_logger("fovea.mlflow")


class Unreachable(Exception):
    """The server does not answer, or does not take what is sent for a reason that may pass."""


def redacted(uri: str) -> str:
    """An address without user, password and query."""
    parts = urllib.parse.urlsplit(uri)
    if not parts.netloc:  # sqlite:////absolute/path
        return uri.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _scrubbed(text: str, uri: str) -> str:
    parts = urllib.parse.urlsplit(uri)
    text = text.replace(uri, redacted(uri))
    for secret in (parts.netloc.rpartition("@")[0], parts.password, parts.username, parts.query):
        if secret:
            text = text.replace(secret, "…").replace(urllib.parse.unquote(secret), "…")
    return text


@functools.lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """A name that MLflow takes for params and metrics: `@`, `%` and the like become `_`, at most 250 characters."""
    parts = [p for p in re.sub(r"[^/\w.\- :]", "_", name).split("/") if p not in ("", ".", "..")]
    return posixpath.join(*parts)[:MAX_NAME] if parts else "_"


def shown(value: Any, limit: int = MAX_PARAM) -> str:
    """A param or tag as text; one that is too long ends with its length and digest, so that different values differ."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    if len(text) <= limit:
        return text
    tail = f"… ({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return text[: limit - len(tail)] + tail


def _now() -> int:
    return int(time.time() * 1000)


class _Story:
    """A run as this process knows it: its journal, and what the server is known to have."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self.lock = threading.RLock()
        self.progress = Progress()
        self.acquainted = False  # whether params, tags and status below are the server's
        self.status = ""
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.artifact_uri = ""
        self.complete = False  # whether `steps` holds all that the server has
        self.steps: dict[str, set[int]] = {}
        self.measured_at = 0.0  # monotonic time of the first metric of this process; 0 = none, or finished
        self.warned: set[str] = set()

    def forget(self) -> None:
        """Ask the server again before sending more."""
        self.acquainted = self.complete = False
        self.steps = {}


class _Server:
    """One MLflow store and everything that is on its way there. One a process, folder and address."""

    def __init__(self, folder: Path, uri: str):
        self.folder = folder
        self.journals = folder / "journal"
        self.local = not uri
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.name = redacted(self.uri)
        self.id = "local" if self.local else hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self.system_metrics_s = SYSTEM_METRICS_S
        self._lock = threading.RLock()
        self._client_lock = threading.RLock()
        self._stories: weakref.WeakValueDictionary[str, _Story] = weakref.WeakValueDictionary()
        self._dirty: dict[str, _Story] = {}
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._down_until, self._pause, self._told = 0.0, RETRY_S[0], False
        self._looked_for_leftovers = False
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = False

    # ---- what runs are told ----------------------------------------------------------------------------------------

    def story(self, key: str) -> _Story:
        """The one object of this process for a run."""
        journal = Journal.of(self.journals, key)
        return self._story_of(journal)

    def _story_of(self, journal: Journal) -> _Story:
        with self._lock:
            story = self._stories.get(journal.name)
            if story is None:
                story = self._stories[journal.name] = _Story(journal)
                story.progress = journal.progress(self.id)
            return story

    def note(self, story: _Story, record: Record) -> None:
        """Write down, to be sent soon."""
        story.journal.append(record)
        self.soon(story)

    def soon(self, story: _Story) -> None:
        """Have the thread send what the story holds."""
        with self._lock:
            self._dirty[story.journal.name] = story
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._work, name="fovea-mlflow", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        sampler, measured, looked = None, time.monotonic(), 0.0
        while not self._wake.wait(SEND_EVERY_S):
            try:
                now = time.monotonic()
                if self.system_metrics_s:
                    with self._lock:
                        measuring = [s for s in self._stories.values() if s.measured_at]
                    if measuring:
                        sampler = sampler or _sampler()
                        sampler.read()
                        if now - measured >= self.system_metrics_s:
                            measured = now
                            self._measure(measuring, sampler.mean(), now)
                    else:
                        sampler = None
                if now - looked >= SEND_EVERY_S:
                    looked = now
                    self.send_all()
            except Exception as error:  # the thread must outlive anything: what is unsent stays on disk
                _log.warning("MLflow's sender: %s", _scrubbed(repr(error), self.uri))

    def _measure(self, stories: list[_Story], values: dict[str, float], now: float) -> None:
        for story in stories:
            if now - story.measured_at >= self.system_metrics_s:
                # Steps count from the run's first start, so that they go on rising after a resume.
                step = int(
                    (_now() - int(story.journal.header().get("t", _now()))) / 1000 / self.system_metrics_s
                )
                self.note(story, {"op": "metrics", "system": True, "t": _now(), "rows": [[step, values]]})

    # ---- sending ---------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether the server failed a moment ago."""
        return time.monotonic() < self._down_until

    def send(self, story: _Story, *, wait: bool = True) -> bool:
        """Send all of one story. False when something is left; never raises for what a server does."""
        try:
            self._connect()
            with story.lock, story.journal.lock.acquire(timeout=LOCK_S if wait else 0):
                self._send(story)
        except Timeout:
            return False  # another process is sending this very run
        except Unreachable as error:
            self._failed(str(error))
            return False
        except FoveaError:
            raise
        except Exception as error:  # requests, SQLAlchemy, object stores: each has its own errors
            # MLflow's error for a server that is not there carries no class of its own.
            silent = "failed with exception" in str(error)
            self._failed(
                str(error).partition("failed with exception")[2]
                if silent
                else f"{type(error).__name__}: {error}",
                answers=not silent,
            )
            return False
        self._answered()
        with self._lock:
            if not story.journal.waits(self.id):
                self._dirty.pop(story.journal.name, None)
        return True

    def send_all(self, *, even_resting: bool = False) -> bool:
        """Send every story with something left, those of earlier processes too. False when something is left."""
        if self.resting and not even_resting:
            return False
        self._adopt_leftovers()
        with self._lock:
            waiting = list(self._dirty.values())
        left = False
        for story in waiting:
            if not self.send(story, wait=even_resting):
                left = True
                if self.resting:
                    break
        return not left

    def _adopt_leftovers(self) -> None:
        if self._looked_for_leftovers:
            return
        self._looked_for_leftovers = True
        for journal in Journal.all(self.journals):
            if journal.known_to(self.id) and journal.waits(self.id):
                story = self._story_of(journal)
                with self._lock:
                    self._dirty[journal.name] = story

    def waiting(self) -> int:
        """How much is not sent yet."""
        with self._lock:
            stories = list(self._dirty.values())
        return sum(s.journal.waiting(self.id) for s in stories)

    def _failed(self, reason: str, *, answers: bool = False) -> None:
        self._down_until = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, RETRY_S[1])
        if not self._told:
            self._told = True
            self.complain(reason, answers=answers)

    def complain(self, reason: str, *, answers: bool = False) -> None:
        """Say what waits, and where."""
        what = "does not take what it is sent" if answers else "does not answer"
        reason = " ".join(_scrubbed(reason, self.uri).split())[:300]
        _log.warning(
            "MLflow at %s %s (%s); %d values wait in %s and are sent as soon as it does, by this or a later command",
            self.name, what, reason, self.waiting(), self.journals,
        )  # fmt: skip

    def _answered(self) -> None:
        self._down_until, self._pause = 0.0, RETRY_S[0]
        if self._told:
            self._told = False
            _log.warning("MLflow at %s answers again; what waited is being sent", self.name)

    def _connect(self) -> "MlflowClient":
        if not self.local:
            self._knock()
        with self._client_lock:
            if self._client is None:
                for name, value in SETTINGS.items():
                    os.environ.setdefault(name, value)
                self.folder.mkdir(parents=True, exist_ok=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    from mlflow.tracking import MlflowClient

                    with _quiet("mlflow.store.db.utils", "alembic"):
                        if self.local:
                            self._make_database()
                        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            return self._client

    def _make_database(self) -> None:
        # MLflow builds its tables by dozens of migrations, without a lock: two processes break each other's, and one
        # that is killed leaves a database that no later one can use. So: beside, one at a time, renamed when whole.
        from mlflow.tracking import MlflowClient

        database = self.folder / "mlflow.db"
        with FileLock(self.folder / ".mlflow.db.lock"):
            if database.exists():
                return
            for abandoned in self.folder.glob(".mlflow.db.making*"):
                abandoned.unlink()
            making = self.folder / f".mlflow.db.making-{os.getpid()}"
            client = MlflowClient(tracking_uri=f"sqlite:///{making}")
            client._tracking_client.store.engine.dispose()
            making.replace(database)

    def _knock(self) -> None:
        # MLflow's own time limit covers connecting and answering alike; a dead host should cost two seconds.
        parts = urllib.parse.urlsplit(self.uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return
        proxied = urllib.request.getproxies().get(parts.scheme)
        if proxied and not urllib.request.proxy_bypass(parts.hostname):
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), timeout=PROBE_S).close()
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from None

    def _send(self, story: _Story) -> None:
        journal = story.journal
        known = journal.progress(self.id)
        if known != story.progress:
            story.forget()  # another process has sent
            story.progress = known
        if story.progress.offset > journal.size:
            story.progress = Progress(known.run_id, known.experiment_id, 0)
            story.forget()
        for attempt in (1, 2):
            try:
                self._open(story)
                self._deliver_journal(story)
                self._deliver_spool(story)
                return
            except Exception as error:
                if attempt == 2 or not (_gone(error) or _cut(error)):
                    raise
                # Deleted on the server while we were writing, or a connection that idled too long: look again.
                # MLflow's own retries would repeat a create_run that had arrived; this asks for the run first.
                story.forget()
                self._experiments.clear()

    def _acknowledge(self, story: _Story, progress: Progress) -> None:
        story.journal.save_progress(self.id, progress)
        story.progress = progress

    def _open(self, story: _Story) -> None:
        """Find or create the run, and learn what the server has of it."""
        if story.acquainted:
            return
        client = self._connect()
        header = story.journal.header()
        found = None
        if story.progress.run_id:
            try:
                found = client.get_run(story.progress.run_id)
            except Exception as error:
                if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                    raise
            if found is None or found.info.lifecycle_stage != "active":
                _log.warning(
                    "MLflow at %s no longer has the run %r: it is logged again",
                    self.name,
                    header.get("name", ""),
                )
                found = None
        if found is None:
            experiment = self._experiment(str(header["experiment"]))
            quote = '"' if "'" in header["key"] else "'"
            same = client.search_runs(
                [experiment], f"tags.`{KEY_TAG}` = {quote}{header['key']}{quote}", max_results=1
            )
            found = same[0] if same else None
            created = found is None
            if found is None:
                tags = {
                    KEY_TAG: str(header["key"]),
                    "mlflow.source.name": "fovea",
                    "mlflow.source.type": "LOCAL",
                }
                if header.get("parent"):
                    tags["mlflow.parentRunId"] = self._parent(story, str(header["parent"]))
                found = client.create_run(
                    experiment, start_time=int(header["t"]), tags=tags, run_name=str(header["name"])
                )
            self._acknowledge(story, Progress(found.info.run_id, experiment, 0))
            story.complete = created
        story.params = dict(found.data.params)
        story.tags = dict(found.data.tags)
        story.status = str(found.info.status)
        story.artifact_uri = str(found.info.artifact_uri)
        story.acquainted = True

    def _parent(self, story: _Story, key: str) -> str:
        parent = self.story(key)
        with parent.lock, parent.journal.lock.acquire(timeout=LOCK_S):
            known = parent.journal.progress(self.id)
            if known != parent.progress:
                parent.forget()
                parent.progress = known
            self._open(parent)
        self.soon(parent)
        return parent.progress.run_id

    def _experiment(self, name: str) -> str:
        if name in self._experiments:
            return self._experiments[name]
        client = self._connect()
        found = client.get_experiment_by_name(name)
        if found is None:
            slug = re.sub(r"[^\w.\-]", "_", name)
            served = urllib.parse.urlsplit(self.uri).scheme in ("http", "https", "databricks")
            where = None if served else (self.folder / "artifacts" / slug).resolve().as_uri()
            try:
                made = client.create_experiment(name, artifact_location=where)
            except Exception as error:
                found = client.get_experiment_by_name(name)  # another process was quicker
                if _code(error) != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
                made = found.experiment_id
        else:
            made = found.experiment_id
            if found.lifecycle_stage != "active":
                _log.warning(
                    "MLflow's experiment %r was deleted: it is restored, since it is used again", name
                )
                client.restore_experiment(made)
        self._experiments[name] = str(made)
        return str(made)

    def _deliver_journal(self, story: _Story) -> None:
        while True:
            records, end = story.journal.read(story.progress.offset)
            if end == story.progress.offset:
                return
            self._deliver(story, records)
            self._acknowledge(story, Progress(story.progress.run_id, story.progress.experiment_id, end))

    def _deliver(self, story: _Story, records: list[Record]) -> None:
        client, run_id = self._connect(), story.progress.run_id
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        rows: list[Record] = []
        tables = json.loads(story.tags.get(TABLES_TAG, "[]"))
        name, ended = "", None
        for record in records:
            op = record.get("op")
            if op == "metrics":
                rows.append(record)
                if ended is not None and ended["status"] != "FINISHED" and not record.get("system"):
                    ended = None  # it was resumed
            elif op == "params":
                for key, value in record["params"].items():
                    self._new_param(story, params, key, value)
            elif op == "tags":
                tags |= record["tags"]
            elif op == "name":
                name = record["name"]
            elif op == "table":
                entry = {"path": record["path"], "type": "table"}
                if entry not in tables:
                    tables.append(entry)
                    tags[TABLES_TAG] = json.dumps(tables)
            elif op == "inputs":
                self._log_inputs(run_id, record["digests"], record["context"])
            elif op == "finish":
                ended = record
        tags = {k: v for k, v in tags.items() if story.tags.get(k) != v}
        self._log_pairs(story, params, tags)
        if name and story.tags.get("mlflow.runName") != name:
            client.update_run(run_id, name=name)
            story.tags["mlflow.runName"] = name
        self._log_metrics(story, rows)
        if ended is not None:
            client.set_terminated(run_id, ended["status"], end_time=int(ended["t"]))
            story.status = ended["status"]

    def _new_param(self, story: _Story, new: dict[str, str], key: str, value: str) -> None:
        known = story.params.get(key, new.get(key))
        if known is None:
            new[key] = value
        elif known != value and key not in story.warned:
            story.warned.add(key)
            _log.warning(
                "MLflow's params cannot change: run %s keeps %s=%s, the value %s was not logged",
                story.progress.run_id, key, known[:80], value[:80],
            )  # fmt: skip

    def _log_pairs(self, story: _Story, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        for chunk in _chunks(list(params.items()), MAX_PAIRS):
            self._log_batch(story, params=[Param(k, v) for k, v in chunk])
            story.params.update(chunk)
        for chunk in _chunks(list(tags.items()), MAX_PAIRS):
            self._log_batch(story, tags=[RunTag(k, v) for k, v in chunk])
            story.tags.update(chunk)

    def _log_metrics(self, story: _Story, records: list[Record]) -> None:
        from mlflow.entities import Metric

        batch: list[Metric] = []
        resumed = False
        for record in records:
            for step, values in record["rows"]:
                for key, value in values.items():
                    if key not in story.steps:
                        story.steps[key] = set() if story.complete else self._steps_of(story, key)
                    if step not in story.steps[key]:
                        story.steps[key].add(step)
                        batch.append(Metric(key, value, record["t"], step))
                        resumed = resumed or not record.get("system")
        if not batch:
            return
        if resumed and story.status in ("FAILED", "KILLED"):
            self._connect().update_run(story.progress.run_id, status="RUNNING")
            story.status = "RUNNING"
        try:
            for chunk in _chunks(batch, MAX_METRICS):
                self._log_batch(story, metrics=chunk)
        except BaseException:
            story.forget()  # some of it may have arrived: ask before sending again
            raise

    def _steps_of(self, story: _Story, key: str) -> set[int]:
        return {m.step for m in self._connect().get_metric_history(story.progress.run_id, key)}

    def _log_batch(self, story: _Story, **entities: list[Any]) -> None:
        client, run_id = self._connect(), story.progress.run_id
        try:
            client.log_batch(run_id, synchronous=True, **entities)
        except Exception as error:
            if _code(error) != "INVALID_PARAMETER_VALUE" or _gone(error):
                raise
            (kind, items) = next(iter(entities.items()))
            if len(items) > 1:  # one bad entity must not hold back the others
                for item in items:
                    self._log_batch(story, **{kind: [item]})
            else:
                _log.warning("MLflow refused %s: %s", items[0].key, _scrubbed(str(error), self.uri)[:300])

    def _log_inputs(self, run_id: str, digests: Mapping[str, str], context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                dataset=Dataset(
                    name=name[:500],
                    digest=digest[:MAX_DIGEST],
                    source_type="fovea",
                    source=json.dumps({"dataset": name, "digest": digest}),
                ),
                tags=[InputTag("mlflow.data.context", context)],
            )
            for name, digest in digests.items()
        ]
        self._connect().log_inputs(run_id, datasets=inputs)

    def _deliver_spool(self, story: _Story) -> None:
        client, run_id = self._connect(), story.progress.run_id
        for item in story.journal.kept():
            try:
                meta = json.loads((item / "meta.json").read_text())
                content = next((item / "content").iterdir())
            except (OSError, ValueError, StopIteration):
                story.journal.done(item)
                continue
            if meta["kind"] == "model":
                self._register(story, content, meta)
            elif content.is_dir():
                client.log_artifacts(run_id, str(content), posixpath.join(meta["folder"], content.name))
            else:
                client.log_artifact(run_id, str(content), meta["folder"] or None)
            story.journal.done(item)

    # ---- models ----------------------------------------------------------------------------------------------------

    def _register(self, story: _Story, folder: Path, meta: Mapping[str, str]) -> None:
        client, run_id = self._connect(), story.progress.run_id
        name, alias = meta["name"], meta["alias"]
        version = self.version_of(name, run_id, meta["digest"])
        if not version:
            with tempfile.TemporaryDirectory(prefix="fovea-model-") as made:
                target = Path(made) / "model"
                with _quiet("mlflow"):
                    save_pyfunc(folder, target)
                client.log_artifacts(run_id, str(target), "model")
            if not self._has_model(name):
                client.create_registered_model(name)
            version = client.create_model_version(
                name,
                source=f"{story.artifact_uri}/model",
                run_id=run_id,
                tags={"fovea.digest": meta["digest"], KEY_TAG: str(story.tags.get(KEY_TAG, ""))},
            ).version
        if alias:
            client.set_registered_model_alias(name, alias, str(version))

    def _has_model(self, name: str) -> bool:
        try:
            self._connect().get_registered_model(name)
        except Exception as error:
            if _code(error) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True

    def version_of(self, name: str, run_id: str, digest: str) -> str:
        """The registered version that holds this folder of this run, or ""."""
        for found in self._connect().search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
            if found.tags.get("fovea.digest") == digest:
                return str(found.version)
        return ""

    def close(self) -> None:
        """At the process's end: stop the thread, send what is left, say what could not be sent."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if not self.journals.exists():
            return  # the home was deleted meanwhile
        if self._dirty and not self.send_all() and not self._told and (left := self.waiting()):
            _log.warning("%d values for MLflow at %s wait in %s", left, self.name, self.journals)


def _code(error: BaseException) -> str:
    return str(getattr(error, "error_code", ""))


def _gone(error: BaseException) -> bool:
    """Whether the run is not there any more: wiped, or deleted in the UI."""
    return _code(error) == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error)


def _cut(error: BaseException) -> bool:
    """Whether a connection broke, time-outs left out. MLflow's error for it carries no class of its own."""
    text = str(error)
    return ("failed with exception" in text or isinstance(error, ConnectionError)) and "timed out" not in text


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _sampler() -> "SystemSampler":
    from pipelines.system_metrics import SystemSampler

    return SystemSampler()


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers that tell of every table and file they make, at warning level for a while."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_servers: dict[tuple[int, Path, str], _Server] = {}
_servers_lock = threading.Lock()


def _server(folder: Path, uri: str) -> _Server:
    with _servers_lock:
        if not _servers:
            atexit.register(_close_all)
        place = os.getpid(), folder, uri  # a forked child has no sender thread: it gets a server of its own
        if place not in _servers:
            _servers[place] = _Server(folder, uri)
        return _servers[place]


def _close_all() -> None:
    for (pid, _, _), server in list(_servers.items()):
        if pid == os.getpid():
            server.close()
    _servers.clear()


class TrackedRun:
    """models.tracking.Run over a journal: each call is one line on the local disk; sending happens beside it."""

    def __init__(self, server: _Server, story: _Story):
        self._server, self._story = server, story

    @property
    def run_id(self) -> str:
        """See models.tracking.Run."""
        return self._story.progress.run_id or self._story.journal.progress(self._server.id).run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """See models.tracking.Run. Values are text or JSON, at most 6,000 characters; a changed value is refused with a
        warning."""
        if params:
            self._server.note(
                self._story, {"op": "params", "params": {clean_name(k): shown(v) for k, v in params.items()}}
            )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See models.tracking.Run."""
        if tags:
            self._server.note(
                self._story,
                {"op": "tags", "tags": {clean_name(k): shown(v, MAX_TAG) for k, v in tags.items()}},
            )

    def log_metrics(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """See models.tracking.Run. NaN and infinity are kept; what is no number is left out with a warning."""
        found: list[tuple[int, dict[str, float]]] = []
        for step, values in rows:
            kept = {}
            for name, value in values.items():
                try:
                    kept[clean_name(name)] = float(value)
                except (TypeError, ValueError):
                    if name not in self._story.warned:
                        self._story.warned.add(name)
                        _log.warning("metric %s: %r is no number and was not logged", name, value)
            if kept:
                found.append((int(step), kept))
        if found:
            self._server.note(self._story, {"op": "metrics", "t": _now(), "rows": found})
            self._story.measured_at = self._story.measured_at or time.monotonic()

    def log_inputs(self, digests: Mapping[str, str], context: str) -> None:
        """See models.tracking.Run. MLflow shows 36 characters of a digest; the whole stands in the source."""
        if digests:
            self._server.note(self._story, {"op": "inputs", "digests": dict(digests), "context": context})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """See models.tracking.Run. Copied at once, so that the file may change or go. Folders are taken whole."""
        path = Path(path)
        if not path.exists():
            raise FoveaError(f"artifact {path} does not exist")
        self._story.journal.keep(path, {"kind": "artifact", "folder": folder.strip("/")})
        self._server.soon(self._story)

    def log_figure(self, png: bytes, name: str) -> None:
        """See models.tracking.Run."""
        self._keep_bytes(png, name)

    def log_table(self, rows: Iterable[Mapping[str, Any]], name: str) -> None:
        """See models.tracking.Run. Logging a table again replaces it."""
        rows = list(rows)
        columns = list(dict.fromkeys(c for row in rows for c in row))
        table = {"columns": columns, "data": [[_cell(row.get(c)) for c in columns] for row in rows]}
        name = name if name.endswith(".json") else f"{name}.json"
        self._keep_bytes(json.dumps(table).encode(), name)
        self._server.note(self._story, {"op": "table", "path": clean_name(name)})

    def _keep_bytes(self, data: bytes, name: str) -> None:
        folder, _, file = clean_name(name).rpartition("/")
        self._story.journal.keep(data, {"kind": "artifact", "folder": folder}, name=file)
        self._server.soon(self._story)

    def finish(self, status: str = "FINISHED") -> None:
        """See models.tracking.Run. Sends what waits, unless the server failed a moment ago."""
        if status not in STATUSES:
            raise FoveaError(f"status {status!r} is not one of {', '.join(STATUSES)}")
        self._story.measured_at = 0.0
        self._server.note(self._story, {"op": "finish", "status": status, "t": _now()})
        if not self._server.resting:
            self._server.send(self._story)


def _cell(value: Any) -> Any:
    item = getattr(value, "item", None)
    value = item() if callable(item) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


class MlflowTracker:
    """models.tracking.Tracker over MLflow.

    folder: `Home.mlflow`; holds the embedded store (`mlflow.db`, `artifacts/`) and the journals. uri: a server or
    database; default MLFLOW_TRACKING_URI, else the embedded store. Cheap to make; several trackers of one process on
    the same folder share everything.
    """

    def __init__(self, folder: Path | str, uri: str | None = None):
        self.folder = Path(str(folder)).expanduser().resolve()
        self.uri = (os.environ.get("MLFLOW_TRACKING_URI", "") if uri is None else uri).strip()
        self._server = _server(self.folder, self.uri)

    @property
    def address(self) -> str:
        """Where runs go, without credentials."""
        return self._server.name

    def run(
        self,
        *,
        experiment: str,
        name: str,
        key: str,
        parent_key: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """See models.tracking.Tracker. A parent that was not opened yet is made, in the same experiment, and gets its
        own name when it is opened. Raises FoveaError for a key that cannot be searched for."""
        for text in (key, parent_key):
            if "'" in text and '"' in text:
                raise FoveaError(f"run key {text!r}: a key may not hold both kinds of quotes")
        if not key:
            raise FoveaError("a run needs a key")
        if parent_key and parent_key != key:
            self._begin(experiment, parent_key, parent_key, "")
        story = self._begin(experiment, name, key, parent_key if parent_key != key else "")
        run = TrackedRun(self._server, story)
        if tags:
            run.set_tags(tags)
        if not self._server.resting:
            self._server.send(story)
        return run

    def _begin(self, experiment: str, name: str, key: str, parent: str) -> _Story:
        server, story = self._server, self._server.story(key)
        journal = story.journal
        header = journal.header()
        if not header:
            server.note(
                story,
                {
                    "op": "run",
                    "experiment": experiment,
                    "name": name,
                    "key": key,
                    "parent": parent,
                    "t": _now(),
                },
            )
        elif name != key and header.get("name") != name:
            server.note(story, {"op": "name", "name": name})
        if not journal.known_to(server.id):
            with contextlib.suppress(Timeout), story.lock, journal.lock.acquire(timeout=LOCK_S):
                if not journal.known_to(server.id):
                    journal.save_progress(server.id, Progress())
        return story

    def run_id(self, key: str) -> str:
        """The server's id of the run with this key, or "" while there is none."""
        return self._server.story(key).journal.progress(self._server.id).run_id

    def run_url(self, run_id: str) -> str:
        """Where a browser shows the run, or "" for one that this home does not know. Base: FOVEA_MLFLOW_UI, else the
        server, else http://127.0.0.1:5000 (`make ui`)."""
        for journal in Journal.all(self._server.journals):
            known = journal.progress(self._server.id)
            if run_id and known.run_id == run_id:
                return f"{self._ui()}/#/experiments/{known.experiment_id}/runs/{run_id}"
        return ""

    def _ui(self) -> str:
        own = self._server.name if self.uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
        return (os.environ.get("FOVEA_MLFLOW_UI") or own).rstrip("/")

    def register_model(self, run: Run, *, folder: Path, name: str, alias: str = "") -> str:
        """See models.tracking.Tracker. The same folder of the same run is one version, however often it is registered.
        Returns `models:/name@alias` or `models:/name/version`; "" while it waits for the server."""
        if not isinstance(run, TrackedRun):
            raise FoveaError("register_model needs a run that this tracker opened")
        folder = Path(folder)
        if not (folder / "codec.json").is_file():
            raise FoveaError(f"no codec in {folder}: codec.json is missing")
        digest = folder_digest(folder)
        story, server = run._story, self._server
        story.journal.keep(
            folder, {"kind": "model", "name": name, "alias": alias, "digest": digest}, name="codec"
        )
        server.soon(story)
        if server.resting or not server.send(story):
            return ""
        if alias:
            return f"models:/{name}@{alias}"
        return f"models:/{name}/{server.version_of(name, run.run_id, digest)}"

    def model_folder(self, address: str) -> Path:
        """The codec's folder of a registered model (`models:/name@alias` or `models:/name/version`), for
        models.codecs.catalogue.load_codec; downloaded where the server is not this machine. Raises FoveaError."""
        from mlflow.artifacts import download_artifacts

        found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", address)
        if not found:
            raise FoveaError(
                f"{address!r} is no registered model: models:/NAME@ALIAS or models:/NAME/VERSION"
            )
        name, alias, number = found.groups()
        try:
            client = self._server._connect()
            version = (
                client.get_model_version_by_alias(name, alias)
                if alias
                else client.get_model_version(name, number)
            )
            model = download_artifacts(
                artifact_uri=str(version.source), tracking_uri=self.uri or self._server.uri
            )
        except Exception as error:
            raise FoveaError(
                f"no model {address} in MLflow at {self.address}: {_scrubbed(str(error), self._server.uri)[:200]}"
            ) from None
        return Path(model) / "artifacts" / "codec"

    def flush(self) -> None:
        """See models.tracking.Tracker. Also sends what earlier processes left."""
        if not self._server.send_all(even_resting=True) and self._server.waiting():
            _log.warning(
                "%d values for MLflow at %s wait in %s",
                self._server.waiting(),
                self.address,
                self._server.journals,
            )

    def prepare(self) -> None:
        """Make the embedded store if it is missing, safely beside other processes: before a server is started on it."""
        self._server._connect()

    def close(self) -> None:
        """Send what is left and stop the sender's thread. The end of the process does the same."""
        with _servers_lock:
            _servers.pop((os.getpid(), self.folder, self.uri), None)
        self._server.close()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


REQUIREMENTS = (
    "mlflow",
    "torch",
    "compressai",
    "safetensors",
    "numpy",
    "pandas",
    "opencv-python-headless",
)


def save_pyfunc(folder: Path, target: Path) -> None:
    """Write a codec's folder as an MLflow model: pyfunc_codec.py as code, the codec as artifact, Fovea's codec modules
    beside it, so that it loads where Fovea is not installed."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    from assets.home import ROOT
    from assets.versions import closure, module_file

    def column(kind: DataType, name: str) -> ColSpec:
        return ColSpec(kind, name, required=False)

    signature = ModelSignature(
        inputs=Schema([column(DataType.binary, n) for n in ("image", "saliency_map", "fov")]),
        outputs=Schema(
            [
                column(DataType.binary, "fov"),
                column(DataType.double, "bpp"),
                column(DataType.binary, "image"),
            ]
        ),
        params=ParamSchema([ParamSpec("lmbda", DataType.double, default=0.0)]),
    )
    codec = json.loads((folder / "codec.json").read_text())["config"]["codec"]
    from models.codecs.catalogue import module_of

    with tempfile.TemporaryDirectory(prefix="fovea-code-") as made:
        for module in closure("models.codecs.catalogue", module_of(codec), left_out=frozenset()):
            source = module_file(module)
            assert source is not None
            place = Path(made) / source.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
            for package in place.relative_to(made).parents[:-1]:
                (Path(made) / package / "__init__.py").touch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about type hints and the like
            mlflow.pyfunc.save_model(
                target,
                python_model=str(Path(__file__).with_name("pyfunc_codec.py")),
                artifacts={"codec": str(folder)},
                code_paths=[str(Path(made) / "models")],
                pip_requirements=[f"{n}=={importlib.metadata.version(n)}" for n in REQUIREMENTS],
                signature=signature,
                metadata={"fovea.digest": folder_digest(folder)},
            )
