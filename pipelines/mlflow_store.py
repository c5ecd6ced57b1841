"""MLflow as a projection of stories: `project` sends what a run there lacks of its journal, and again changes nothing.

A killed sender, a lost answer, another process that sent meanwhile and deleted local state are one case: MLflow is asked
what the run has (params, tags, status, the steps of each metric), and the rest is sent in batches. Behind each part of a
journal its offset is kept, so that what stands before it is not looked at again. The first (name, step) of a story wins;
a time stamp fixed at the call makes a repeated row identical, which MLflow's database refuses to double.

MLflow's global state (active run, tracking URI) is never used.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import posixpath
import re
import socket
import sqlite3
import tempfile
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from tenacity import retry, retry_if_exception, stop_after_attempt

from assets.log import lasting_logger
from assets.versions import commit
from pipelines.journal import Journal, Progress, Record
from pipelines.mlflow_model import save_model
from pipelines.mlflow_view import ALL, VIEW_TAG, asset_address, dagster_address, led, table_address, view

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

KEY_TAG, NAME_TAG, PARENT_TAG = "fovea.key", "mlflow.runName", "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
TABLES_TAG, DIGEST_TAG = "mlflow.loggedArtifacts", "fovea.digest"
# MLflow takes 1,000 metrics a batch; 50 long values stay below its 1 MB
BATCH = {"metrics": 1000, "params": 50, "tags": 50}
MAX_NAME, MAX_DIGEST = 250, 36
PROBE_S = 2.0
LOCK_S = 20.0

#: Only this process and its children: a server that hangs must not hold a training run for MLflow's default of minutes.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

#: where MLflow's database keeps addresses of artifacts
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)

#: where it keeps descriptions
DESCRIPTIONS = (
    ("tags", "value"),
    ("experiment_tags", "value"),
    ("registered_models", "description"),
    ("model_versions", "description"),
)

log = lasting_logger("fovea.mlflow")


def lead_descriptions(folder: Path) -> None:
    """Have descriptions in an embedded store link to where Dagster's pages are now. folder: as MlflowTracker's."""
    dagster = dagster_address(folder, "")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=LOCK_S)) as database, database:
        database.create_function("led", 1, lambda text: led(text, dagster))
        for table, column in DESCRIPTIONS:
            database.execute(
                f"update {table} set {column} = led({column}) where {column} like '%/assets/%' and led({column}) <> {column}"
            )


class Unreachable(Exception):
    """The server does not answer."""


def redacted(uri: str) -> str:
    """An address without user, password and query."""
    parts = urllib.parse.urlsplit(uri)
    if not parts.netloc:  # sqlite:////absolute/path
        return uri.partition("?")[0]
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


@functools.lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """A name that MLflow takes for params and metrics: `@`, `%` and the like become `_`, at most 250 characters."""
    parts = [p for p in re.sub(r"[^/\w.\- :]", "_", name).split("/") if p not in ("", ".", "..")]
    return posixpath.join(*parts)[:MAX_NAME] if parts else "_"


@functools.cache
def _warn_once(text: str, *values: str) -> None:
    log.warning(text, *values)


def _code(error: BaseException) -> str:
    return str(getattr(error, "error_code", ""))


def _gone(error: BaseException) -> bool:
    """Whether the run is not there any more: wiped, or deleted in the UI."""
    return _code(error) == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error)


def unanswered(error: BaseException) -> bool:
    """Whether no answer came, or none from the database behind. MLflow's errors for it carry no class of their own."""
    away = "failed with exception" in str(error) or _code(error) == "TEMPORARILY_UNAVAILABLE"
    return away or isinstance(error, Unreachable | ConnectionError)


def _look_again(error: BaseException) -> bool:
    """Deleted on the server while we were writing, or a connection that idled too long. MLflow's own retries would
    repeat a create_run that had arrived; ours asks for the run first."""
    return _gone(error) or (unanswered(error) and "timed out" not in str(error))


class _Known:
    """What MLflow has of a run."""

    def __init__(self, progress: Progress, run: "MlflowRun"):
        self.progress = progress
        self.params, self.tags = dict(run.data.params), dict(run.data.tags)
        self.status, self.artifact_uri = str(run.info.status), str(run.info.artifact_uri)
        #: None where they were not asked for yet
        self.steps: dict[str, set[int] | None] = dict.fromkeys(run.data.metrics)
        self.latest: dict[str, float] = dict(run.data.metrics)


class MlflowStore:
    """One MLflow store. folder: holds the embedded store, `mlflow.db` and `artifacts/`; uri: a server or database, "" for
    the embedded one. Errors are those of MLflow and of what lies under it, and Unreachable."""

    def __init__(self, folder: Path, uri: str):
        self.folder, self.local = folder, not uri
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.name = redacted(self.uri)
        self.id = "local" if self.local else hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self._known: dict[str, _Known] = {}  # by the journal's name
        self._experiments: dict[str, str] = {}

    def scrubbed(self, text: object) -> str:
        """A text in one line, without what is secret in the store's address."""
        parts = urllib.parse.urlsplit(self.uri)
        text = str(text).replace(self.uri, self.name)
        for secret in (parts.netloc.rpartition("@")[0], parts.password, parts.username, parts.query):
            if secret:
                text = text.replace(secret, "…").replace(urllib.parse.unquote(secret), "…")
        return " ".join(text.split())[:300]

    # ---- connection ------------------------------------------------------------------------------------------------

    def connect(self) -> "MlflowClient":
        """MLflow's client. Raises Unreachable for a dead server after two seconds: MLflow's own time limit covers
        connecting and answering alike."""
        parts = urllib.parse.urlsplit(self.uri)
        if parts.scheme in ("http", "https") and parts.hostname:
            proxied = urllib.request.getproxies().get(parts.scheme)
            if not proxied or urllib.request.proxy_bypass(parts.hostname):
                port = parts.port or (443 if parts.scheme == "https" else 80)
                try:
                    socket.create_connection((parts.hostname, port), timeout=PROBE_S).close()
                except OSError as error:
                    raise Unreachable(error.strerror or str(error)) from None
        return self._client

    @functools.cached_property
    def _client(self) -> "MlflowClient":
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from mlflow.tracking import MlflowClient

            for talkative in ("mlflow", "alembic"):
                logging.getLogger(talkative).setLevel(logging.WARNING)
            if self.local:
                self._make_database()
                self._follow_move()
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def _make_database(self) -> None:
        # MLflow builds its tables by dozens of migrations, without a lock: two processes break each other's, and one
        # that is killed leaves a database that no later one can use. So: beside, one at a time, renamed when whole.
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.folder.mkdir(parents=True, exist_ok=True)
        database = self.folder / "mlflow.db"
        with FileLock(self.folder / ".mlflow.db.lock"):
            if database.exists():
                return
            for abandoned in self.folder.glob(".mlflow.db.making*"):
                abandoned.unlink()
            making = self.folder / f".mlflow.db.making-{os.getpid()}"
            artifacts = (self.folder / "artifacts").resolve().as_uri()
            SqlAlchemyStore(f"sqlite:///{making}", artifacts).engine.dispose()  # type: ignore[no-untyped-call]
            making.replace(database)

    def _follow_move(self) -> None:
        """Have a database that was moved or copied with its folder name the artifacts that lie beside it: MLflow keeps whole
        addresses, and would read from, and write to, where the folder was."""
        artifacts = (self.folder / "artifacts").resolve()
        here = artifacts.as_uri()

        def was_ours(at: str) -> bool:
            # a person's own experiment may lie anywhere: a place is where this folder was only when it is gone, or copied here
            place = Path(urllib.request.url2pathname(urllib.parse.urlsplit(at).path))
            known = place.parent.exists() and not (artifacts / place.name).exists()
            return at.startswith("file:") and place.parent.name == artifacts.name and not known

        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=LOCK_S)) as database, database:
            kept = [at for (at,) in database.execute("select artifact_location from experiments")]
            left = {at.rpartition("/")[0] for at in kept if was_ours(at)} - {here}
            for base, (table, column) in itertools.product(left, ADDRESSES):
                database.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                    (f"{here}/", len(base) + 2, len(base) + 1, f"{base}/"),
                )

    # ---- stories ---------------------------------------------------------------------------------------------------

    @retry(retry=retry_if_exception(_look_again), stop=stop_after_attempt(2), reraise=True)
    def project(self, journal: Journal) -> None:
        """Send what the run in MLflow lacks of its story. Only under the journal's lock, after `connect`."""
        try:
            known = self._meet(journal)
            for records, end in journal.read(known.progress.offset):
                self._bring(journal, known, records)
                known.progress = replace(known.progress, offset=end)
                journal.save_progress(self.id, known.progress)
        except BaseException:  # some of it may have arrived
            self._known.pop(journal.name, None)
            self._experiments.clear()
            raise
        if known.status != "RUNNING":
            self._known.pop(journal.name, None)

    def _meet(self, journal: Journal) -> _Known:
        """Find or create the run, and learn what it has."""
        progress = journal.progress(self.id) or Progress()
        known = self._known.get(journal.name)
        if known is not None and known.progress == progress:
            return known  # nobody else has sent since
        header = journal.header()
        experiment, key = self._experiment(header["experiment"]), header["key"]
        quote = '"' if "'" in key else "'"
        same = self._client.search_runs([experiment], f"tags.`{KEY_TAG}` = {quote}{key}{quote}", max_results=1)
        if not same and progress.run_id:
            log.warning("MLflow at %s has no run %r any more: it is logged again", self.name, header["name"])
        run = same[0] if same else self._create(experiment, header, journal)
        if run.info.run_id != progress.run_id or progress.offset > journal.size:
            progress = Progress(run.info.run_id, experiment)
            journal.save_progress(self.id, progress)
        known = self._known[journal.name] = _Known(progress, run)
        return known

    def _create(self, experiment: str, header: Record, journal: Journal) -> "MlflowRun":
        tags = {KEY_TAG: header["key"], "mlflow.source.name": "fovea", "mlflow.source.type": "LOCAL"}
        if made_by := commit():
            tags["mlflow.source.git.commit"] = made_by
        if header["parent"]:
            parent = Journal.of(journal.folder, header["parent"])
            with parent.lock.acquire(timeout=LOCK_S):
                tags[PARENT_TAG] = self._meet(parent).progress.run_id
        return self._client.create_run(experiment, int(header["t"]), tags, header["name"])

    def _experiment(self, name: str) -> str:
        if name in self._experiments:
            return self._experiments[name]
        found = self._client.get_experiment_by_name(name)
        if found is None:
            slug = re.sub(r"[^\w.\-]", "_", name)
            served = urllib.parse.urlsplit(self.uri).scheme in ("http", "https", "databricks")
            where = None if served else (self.folder / "artifacts" / slug).resolve().as_uri()
            with _already_there():  # another process was quicker
                made = self._client.create_experiment(name, artifact_location=where, tags={VIEW_TAG + ALL: view()})
                # its own list opens an experiment as traces, which are none: the way out stands on that page
                dataset = name.removeprefix("fovea-")
                shown = asset_address(self.folder, self.name, "rgba_frames", dataset)
                asset = (
                    f"[its pictures in Dagster]({shown})" if shown else "its pictures in Dagster's asset `rgba_frames`"
                )
                about = (
                    f"Codecs trained or measured on `{dataset}`: [the run table]({table_address('', made)[1:]}), {asset}. "
                    "What a sweep made hangs under its run `sweep …`, which holds report, curves and tables; a training's row has "
                    "the figures of the test pictures, of a training for several rates its children's rows. "
                    "`bd_rate_percent`: its curve's bits against `uniform` at equal `ew_psnr_db` where fixations are recorded, "
                    "else at equal `sw_psnr_db`."
                )
                self._client.set_experiment_tag(made, NOTE_TAG, about)
            return self._experiment(name)
        if found.lifecycle_stage != "active":
            log.warning("MLflow's experiment %r was deleted: it is restored, since it is used again", name)
            self._client.restore_experiment(found.experiment_id)
        self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    def _bring(self, journal: Journal, known: _Known, records: list[Record]) -> None:
        """Send what MLflow lacks of these records, the status last."""
        run_id, status, ended = known.progress.run_id, known.status, 0
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for record in records:
            tags |= record.get("tags", {})
            params |= self._lacking_params(known, record.get("params", {}))
            if "digests" in record:
                self._log_inputs(run_id, record)
            elif "file" in record:
                self._upload(journal, known, record)
                tags |= _table_tag(tags.get(TABLES_TAG) or known.tags.get(TABLES_TAG), record)
            elif record["op"] == "finish":
                status, ended = record["status"], int(record["t"])
            elif record["op"] == "metrics" and status != "FINISHED" and not record.get("system"):
                status = "RUNNING"  # also one that failed: it was resumed
        if tags.get("fovea.stage") == "sweep":  # also of an experiment that an earlier version made
            for name, state in ((ALL, view()), (sweep := tags["fovea.sweep"], view(sweep))):
                self._client.set_experiment_tag(known.progress.experiment_id, VIEW_TAG + name, state)
        tags = {name: value for name, value in tags.items() if known.tags.get(name) != value}
        known.tags |= tags
        if NAME_TAG in tags:
            self._client.update_run(run_id, name=tags.pop(NAME_TAG))
        self._log(run_id, "params", params.items())
        self._log(run_id, "tags", tags.items())
        self._log(run_id, "metrics", self._lacking(known, records))
        if status != known.status and status == "RUNNING":
            self._client.update_run(run_id, status=status)
        elif status != known.status:
            self._client.set_terminated(run_id, status, end_time=ended)
        known.status = status

    def _lacking_params(self, known: _Known, told: dict[str, str]) -> dict[str, str]:
        found = {name: value for name, value in told.items() if name not in known.params}
        known.params |= found
        for name, value in told.items():
            if (kept := known.params[name]) != value:
                _warn_once(
                    "MLflow's params cannot change: run %s keeps %s=%s, the value %s was not logged",
                    known.progress.run_id, name, kept[:80], value[:80],
                )  # fmt: skip
        return found

    def _lacking(self, known: _Known, records: list[Record]) -> Iterator[tuple[str, float, int, int]]:
        """(name, value, time in ms, step) that the run does not have yet."""
        for record in records:
            for step, values in record.get("rows", ()):
                for told, value in values.items():
                    if not isinstance(value, int | float):
                        _warn_once("metric %s: %s is no number and was not logged", told, repr(value))
                        continue
                    steps = self._steps(known, name := clean_name(told))
                    if step not in steps:
                        steps.add(step)
                        yield name, float(value), record["t"], step
        # of what was told several times the last word counts: told again, all of it changes nothing
        now = {clean_name(k): (v, r["t"]) for r in records for k, v in r.get("now", {}).items()}
        for name, (value, at) in now.items():
            if math.isfinite(value) and known.latest.get(name) != value:
                known.latest[name] = value
                steps = self._steps(known, name)
                steps.add(step := max(steps, default=-1) + 1)
                yield name, float(value), at, step

    def _steps(self, known: _Known, name: str) -> set[int]:
        """Those at which the run has a value."""
        steps = known.steps.setdefault(name, set())
        if steps is None:
            history = self._client.get_metric_history(known.progress.run_id, name)
            steps = known.steps[name] = {m.step for m in history}
        return steps

    def _log(self, run_id: str, kind: str, items: Iterable[tuple[Any, ...]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        made = [{"metrics": Metric, "params": Param, "tags": RunTag}[kind](*item) for item in items]
        batches = [made[i : i + BATCH[kind]] for i in range(0, len(made), BATCH[kind])]
        while batches:
            batch = batches.pop(0)
            try:
                self._client.log_batch(run_id, synchronous=True, **{kind: batch})
            except Exception as error:
                if _code(error) != "INVALID_PARAMETER_VALUE" or _gone(error):
                    raise
                if len(batch) == 1:
                    log.warning("MLflow refused %s: %s", batch[0].key, self.scrubbed(error))
                else:  # one bad entity must not hold back the others
                    batches = [*([one] for one in batch), *batches]

    def _log_inputs(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for name, digest in record["digests"].items():
            source = json.dumps({"dataset": name, "digest": digest})
            dataset = Dataset(name[:500], digest[:MAX_DIGEST], source_type="fovea", source=source)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])]))
        self._client.log_inputs(run_id, datasets=inputs)

    def _upload(self, journal: Journal, known: _Known, record: Record) -> None:
        content, run_id = journal.spool / record["file"], known.progress.run_id
        if not content.exists():
            return  # sent before
        if record["op"] == "model":
            self._register(known, content, record)
        elif content.is_dir():
            self._client.log_artifacts(run_id, str(content), posixpath.join(record["folder"], content.name))
        else:
            self._client.log_artifact(run_id, str(content), record["folder"] or None)
        journal.let_go(record)

    # ---- models ----------------------------------------------------------------------------------------------------

    def _register(self, known: _Known, folder: Path, record: Record) -> None:
        client, run_id, name = self._client, known.progress.run_id, record["name"]
        version = self.version_of(name, run_id, record["digest"])
        if not version:
            with tempfile.TemporaryDirectory(prefix="fovea-model-") as made:
                save_model(folder, Path(made) / "model")
                client.log_artifacts(run_id, f"{made}/model", "model")
            with _already_there():
                client.create_registered_model(name)
            tags = {DIGEST_TAG: record["digest"], KEY_TAG: known.tags.get(KEY_TAG, "")}
            source = f"{known.artifact_uri}/model"
            version = str(client.create_model_version(name, source=source, run_id=run_id, tags=tags).version)
        if about := record.get("about"):
            client.update_registered_model(name, about)
            client.update_model_version(name, version, about)
        if record["alias"]:
            client.set_registered_model_alias(name, record["alias"], version)

    def version_of(self, name: str, run_id: str, digest: str) -> str:
        """The registered version that holds this folder of this run, or ""."""
        versions = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return next((str(v.version) for v in versions if v.tags.get(DIGEST_TAG) == digest), "")


@contextlib.contextmanager
def _already_there() -> Iterator[None]:
    """Making what is there is no error."""
    try:
        yield
    except Exception as error:
        if _code(error) != "RESOURCE_ALREADY_EXISTS":
            raise


def _table_tag(value: str | None, record: Record) -> dict[str, str]:
    """MLflow's tag that lists the tables of a run, with the table of this record."""
    tables = json.loads(value or "[]")
    if record["op"] == "table":
        entry = {"path": posixpath.join(record["folder"], Path(record["file"]).name), "type": "table"}
        tables += [entry] if entry not in tables else []
    return {TABLES_TAG: json.dumps(tables)} if tables else {}
