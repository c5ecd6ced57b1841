"""Steps and chunks of frames on a Ray cluster. Imported only where the profile's executor is `ray`.

dagster-ray submits each step as a Ray job, which runs Dagster's own entry point on a node that has what the step asks
for. A stage that goes through many frames hands them out as Ray tasks from there. Nodes need the same code, the same
`fovea.toml` and the same storage; what they make lies in the store before they say that it is made.
"""

import contextlib
import copy
import importlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import ray
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.executor.base import Executor
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandlerContext
from dagster_ray.configs import USER_DEFINED_RAY_KEY
from dagster_ray.core.executor import RayStepHandler
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from assets.chain import Chain
from assets.graph import Bench, ChunkWork, Progress, Row, silent
from assets.home import Home
from assets.settings import Profile, passed_on
from assets.stages import open_chain
from models.errors import FoveaError
from models.unexpected import described
from pipelines.executors import chunk_demand, cluster_of, demand

#: seconds between two looks at whether a step's job still runs; a lost node shows after Ray's own half minute or so
HEALTH_EVERY_S = 5
#: frames of one task: a few shards, so that a lost node costs little and a model is not loaded for nothing
CHUNK_FRAMES = {"saliency_maps": 256}
#: times that a chunk is tried again, on another node where its own is lost
CHUNK_RETRIES = 3
#: tasks for each CPU that are handed out and not finished: enough to keep nodes busy, few enough for flat memory
CHUNKS_A_CPU = 2
#: what a step sees of the command's environment. No secret: Ray shows a job's environment to anybody who asks
FORWARDED = (
    "FOVEA_PROFILE", "FOVEA_CONFIG", "FOVEA_HOME", "FOVEA_DATA", "FOVEA_RETRIES", "FOVEA_SHARED",
    "CITYSCAPES_ROOT", "GOMP_SPINCOUNT", "MLFLOW_TRACKING_URI", "OMP_WAIT_POLICY", "PYTHONPATH",
)  # fmt: skip
LOG_LINES = 30
#: seconds that a job server may be away
WAIT_S, PAUSE_S = 180.0, 2.0


class Steps(RayStepHandler):
    """dagster-ray's steps, each asking for what `pipelines.executors.demand` says unless its tags ask themselves."""

    def __init__(self, client: JobSubmissionClient, cluster: Profile):
        super().__init__(
            client=client,
            env_vars=[f"{name}={value}" for name, value in passed_on(FORWARDED).items()],
            runtime_env=None,
            num_cpus=None,
            num_gpus=None,
            memory=None,
            resources=None,
        )
        self.cluster = cluster

    @property
    def name(self) -> str:
        """As Dagster shows it."""
        return "FoveaRaySteps"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """Submit the step's job with its demand."""
        yield from super().launch_step(_Asking(step_handler_context, self.cluster))

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """A failed or stopped job ends the step, with the last lines of its log."""
        submission = self._get_ray_job_submission_id(step_handler_context)
        try:
            status = self.client.get_job_status(submission)
        except RuntimeError:
            return CheckStepHealthResult.unhealthy(f"Ray does not know the job {submission}: was it restarted?")
        if status not in (JobStatus.FAILED, JobStatus.STOPPED):
            return CheckStepHealthResult.healthy()
        about = self.client.get_job_info(submission)
        said = f"Ray job {submission} {str(status).lower()}: {about.message or about.error_type or 'no reason given'}"
        with contextlib.suppress(Exception):  # the log went with its node
            lines = self.client.get_job_logs(submission).strip().splitlines()[-LOG_LINES:]
            said += "\n" + "\n".join(lines)
        return CheckStepHealthResult.unhealthy(said)


class _Asking(StepHandlerContext):
    """A step's context whose tags hold what it asks for."""

    def __init__(self, context: StepHandlerContext, cluster: Profile):
        self.__dict__.update(context.__dict__)
        self._cluster = cluster

    @property
    def step_tags(self) -> dict[str, dict[str, str]]:  # type: ignore[override]
        """Tags by step."""
        tags = {key: dict(found) for key, found in super().step_tags.items()}
        chain = open_chain()
        for key, found in tags.items():
            if USER_DEFINED_RAY_KEY not in found:
                partition = self.dagster_run.tags.get("dagster/partition", "")
                asked = demand(chain, key.split(".")[-1], partition, self._cluster)
                found[USER_DEFINED_RAY_KEY] = json.dumps(
                    {"num_cpus": asked.cpus, "num_gpus": asked.gpus, "memory": asked.memory_bytes or None}
                )
        return tags


@dg.executor(
    name="ray",
    config_schema={"retries": get_retries_config()},  # type: ignore[no-untyped-call]
    requirements=multiple_process_executor_requirements(),
)
def ray_executor(init_context: InitExecutorContext) -> Executor:
    """Steps as jobs of the Ray cluster that the profile names."""
    cluster = cluster_of(Home.from_environment())
    if cluster is None:
        raise FoveaError("the executor is ray, but the profile names another; reload the code location")
    return StepDelegatingExecutor(
        Steps(submission_client(cluster), cluster),
        retries=RetryMode.from_config(init_context.executor_config["retries"]),  # type: ignore[arg-type]
        check_step_health_interval_seconds=HEALTH_EVERY_S,
        should_verify_step=True,
    )


class PatientClient(JobSubmissionClient):
    """Asks again while the cluster's job server has no node for an answer, or does not answer: it may be starting."""

    def submit_job(self, **asked: Any) -> str:
        """Submit under a submission id (without one, under one of its own), once: one that came through unanswered is
        found there."""
        name = str(asked.setdefault("submission_id", f"fovea-{uuid.uuid4().hex[:16]}"))

        def submit() -> str:
            # what asks for resources is changed on the way: each try needs its own copy
            try:
                return str(JobSubmissionClient.submit_job(self, **copy.deepcopy(asked)))
            except RuntimeError as error:
                if "already exists" in str(error):
                    return name
                raise

        return patiently(submit)

    def get_job_status(self, job_id: str) -> JobStatus:
        """Status of a job; raises RuntimeError when the cluster does not know it."""
        return patiently(lambda: JobSubmissionClient.get_job_status(self, job_id))


def _away(error: BaseException) -> bool:
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and "status code 5" in str(error))


#: asks until there is an answer; raises what was said last
patiently = Retrying(
    retry=retry_if_exception(_away), stop=stop_after_delay(WAIT_S), wait=wait_fixed(PAUSE_S), reraise=True
)


def submission_client(cluster: Profile) -> PatientClient:
    """A client of the cluster's job server. Raises FoveaError when it does not answer."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return PatientClient(cluster.ray_address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FoveaError(
            f"Ray at {cluster.ray_address} does not answer ({str(error).splitlines()[0]}): start it (ray start --head), or "
            "name its head in the profile (ray_address)"
        ) from error


def stop_steps(cluster: Profile, run_ids: Sequence[str]) -> None:
    """Stop what is still on the cluster of these Dagster runs, so that nothing is made twice at once."""
    client = submission_client(cluster)
    try:
        jobs = client.list_jobs()
    except (RuntimeError, OSError) as error:
        raise FoveaError(f"Ray at {cluster.ray_address} does not say what it runs ({error})") from error
    for job in jobs:
        mine = (job.metadata or {}).get("dagster/run-id") in run_ids
        if mine and job.submission_id and job.status in (JobStatus.PENDING, JobStatus.RUNNING):
            with contextlib.suppress(RuntimeError, OSError):  # ended meanwhile, or the cluster did
                client.stop_job(job.submission_id)


# ---------------------------------------------------------------------------------------------- chunks of frames


def on_cluster(cluster: Profile, bench: Bench, rows: Sequence[Row], work: ChunkWork, progress: Progress) -> int:
    """`assets.graph.FanOut` on the cluster: chunks of frames as tasks, few at a time, each tried again by itself. A chunk's
    failure is raised once every chunk under way has ended."""
    if not rows:
        return 0
    stage, partition = bench.stage.name, bench.partition
    if not ray.is_initialized():
        ray.init(log_to_driver=True, logging_level=logging.WARNING)
    asked = chunk_demand(stage, cluster)
    task = ray.remote(_work).options(
        name=f"{stage} {partition}",
        num_cpus=asked.cpus,
        num_gpus=asked.gpus,
        max_retries=CHUNK_RETRIES,
        retry_exceptions=True,
    )
    size = CHUNK_FRAMES.get(stage, 128)
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]  # Ray has no types there
    bound = CHUNKS_A_CPU * max(1, int(cores))
    name = f"{work.__module__}:{work.__qualname__}"
    waiting, under_way, made, done = iter(chunks), {}, 0, 0
    try:
        while True:
            for chunk in waiting:
                under_way[task.remote(name, stage, partition, chunk, cluster)] = len(chunk)
                if len(under_way) >= bound:
                    break
            if not under_way:
                return made
            ready, _ = ray.wait(list(under_way), num_returns=1)
            for reference in ready:
                made += ray.get(reference)
                done += under_way.pop(reference)
                progress(done, len(rows), f"{stage.replace('_', ' ')} on the cluster")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (
            cause
            if isinstance(cause, FoveaError)
            else FoveaError(
                f"{stage} {partition}: a chunk of frames failed {CHUNK_RETRIES + 1} times: {described(cause)}"
            )
        ) from error
    except ray.exceptions.RayError as error:  # its worker died: killed, or out of memory
        raise FoveaError(
            f"{stage} {partition}: a chunk of frames was lost {CHUNK_RETRIES + 1} times "
            f"({str(error).strip().splitlines()[0]}); give nodes more memory, or the step fewer at once (ray_threads)"
        ) from error
    finally:
        for reference in under_way:
            ray.cancel(reference)


_chains: dict[str, Chain] = {}


def _work(name: str, stage: str, partition: str, rows: Sequence[Row], cluster: Profile) -> int:
    """One chunk, in a worker's process: its chain is kept for the next chunk of the same step."""
    module, function = name.split(":")
    work: ChunkWork = getattr(importlib.import_module(module), function)
    if not _chains:
        _chains[""] = open_chain(threads=cluster.ray_threads, device=cluster.device)
    chain = _chains[""]
    try:
        return work(chain.bench(stage, partition), rows, silent)
    except FoveaError as error:
        # its subclasses take other arguments and could not be sent back
        raise FoveaError(str(error)) from None
    finally:
        chain.store.release()
