"""Requests that are tried again where that may help, and answers that are read as they arrive.

No exception or line of here holds anything of a request: it may carry a password.
"""

import http.client
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import requests
import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random_exponential,
)

from models.errors import FoveaError

logger = logging.getLogger(__name__)

T = TypeVar("T")
_BAD_CERTIFICATE = "its certificate cannot be verified"


class Transient(Exception):
    """Worth another try; `asked_s` is the server's Retry-After."""

    def __init__(self, reason: str, asked_s: float = 0.0):
        super().__init__(reason)
        self.asked_s = asked_s


class Progress(NamedTuple):
    """`phase` is "download" or "verify"; `total_bytes` and `eta_s` are None where unknown."""

    phase: str
    done_bytes: int
    total_bytes: int | None
    rate_bytes_s: float
    eta_s: float | None


@dataclass(frozen=True)
class Policy:
    """How patient a client is. `attempts` failures in a row end a request or download; `progress_bytes` of new data start
    the count again. A connection that brings less than `min_rate_bytes_s` over `stall_window_s` counts as dropped."""

    attempts: int = 10
    backoff_s: float = 1.0
    backoff_max_s: float = 120.0
    connect_timeout_s: float = 20.0
    read_timeout_s: float = 60.0
    stall_window_s: float = 60.0
    min_rate_bytes_s: float = 512.0
    progress_bytes: int = 1 << 20
    chunk_bytes: int = 1 << 20
    report_every_s: float = 0.5
    spare_bytes: int = 64 << 20


@dataclass(frozen=True)
class Manner:
    """How patient a client is, and whom it tells: `report` twice a second, `say` one line a thing survived."""

    policy: Policy = Policy()
    report: Callable[[Progress], None] = lambda _: None
    say: Callable[[str], None] = logger.info
    sleep: Callable[[float], None] = time.sleep

    def retry(self, act: Callable[[], T], what: str, progressed: Callable[[], bool] = lambda: False) -> T:
        """`act()` again after each Transient, `policy.attempts` times in a row; then the last Transient is raised.

        Waits double each time, half of them at random, or last as long as the server asks. After an attempt that
        `progressed`, the count starts again.
        """
        half = {"multiplier": self.policy.backoff_s / 2, "max": self.policy.backoff_max_s / 2}
        backoff = wait_exponential(**half) + wait_random_exponential(**half)

        def error_of(state: RetryCallState) -> Any:
            return state.outcome.exception() if state.outcome else None

        def count(state: RetryCallState) -> None:
            if progressed():
                state.attempt_number = 1

        def tell(state: RetryCallState) -> None:
            tried = f"try {state.attempt_number + 1} of {self.policy.attempts} in {state.upcoming_sleep:.1f} s"
            self.say(f"{what}: {error_of(state)}; {tried}")

        return Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_attempt(self.policy.attempts),
            wait=lambda state: max(backoff(state), min(error_of(state).asked_s, 10 * self.policy.backoff_max_s)),
            after=count,
            before_sleep=tell,
            sleep=self.sleep,
            reraise=True,
        )(act)


PATIENT = Manner()


def send(session: requests.Session, method: str, url: str, policy: Policy, **options: Any) -> requests.Response:
    """A streamed answer. Raises Transient for failed connections and for statuses that may pass, FoveaError for a bad
    certificate; neither holds anything of the request."""
    timeout = policy.connect_timeout_s, policy.read_timeout_s
    failure = ""
    try:
        response = session.request(method, url, stream=True, timeout=timeout, **options)
    except requests.RequestException as error:
        failure = _reason(error)
    # Raised out here: an exception raised in the handler would carry the request along.
    if failure == _BAD_CERTIFICATE:
        raise FoveaError(f"{url}: {failure}; nothing was sent")
    if failure:
        raise Transient(failure)
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        response.close()
        asked = response.headers.get("Retry-After", "").strip()
        raise Transient(f"status {status}", float(asked) if re.fullmatch(r"\d{1,6}", asked) else 0.0)
    return response


def read_pieces(response: requests.Response, most: int) -> Iterator[bytes]:
    """The body as it arrives, up to `most` bytes at a time, without waiting for a piece to be full. Raises Transient when
    the connection drops, stalls or ends early."""
    while True:
        try:
            piece = response.raw.read1(most, decode_content=False)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise Transient(_reason(error)) from None
        if not piece:
            return
        yield piece


def _reason(error: BaseException) -> str:
    """Why a connection failed, in words that hold nothing of the request."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        inner = getattr(cause, "reason", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _BAD_CERTIFICATE
        if isinstance(link, OSError) and link.strerror and not isinstance(link, requests.RequestException):
            return link.strerror
    if any(isinstance(link, TimeoutError | requests.Timeout) for link in chain):
        return "no answer in time"
    return f"the connection failed ({type(chain[-1]).__name__})"
