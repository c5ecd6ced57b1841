"""The download client against a server on loopback: each fault, and what lies on the disk after it."""

import copy
import errno
import hashlib
import json
import logging
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.cityscapes_site import CityscapesSite, Fault

from assets.frames.archive import ARCHIVE_NAME as NAME
from assets.frames.cityscapes import (
    Credentials,
    LoginRefused,
    Secret,
    download,
    find_change,
    find_finished,
    read_credentials,
)
from models import download as download_module
from models.download import ChecksumError, Download
from models.errors import FoveaError
from models.network import Manner, Policy, Progress, Transient

ROOT = Path(__file__).parents[3]
PASSWORD = "pass word&§9"
FILE = "/file-handling/"
# Impatient, so that a test of patience takes a fraction of a second; waits are recorded, not slept.
IMPATIENT = Policy(attempts=4, connect_timeout_s=2, read_timeout_s=0.4, stall_window_s=0.4, min_rate_bytes_s=20_000,
                   progress_bytes=1 << 16, report_every_s=0.0, spare_bytes=0)  # fmt: skip


def make_package(folder: Path, seed: int, size: int = 3_000_000) -> Path:
    """A zip that does not compress; the same size for each seed."""
    path = folder / f"{seed}" / NAME
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("blob"), random.Random(seed).randbytes(size))
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return make_package(folder, 1), make_package(folder, 2)


@pytest.fixture
def other_package(packages: tuple[Path, Path]) -> Path:
    return packages[1]


class Run:
    """Downloads of a package from a site into a folder, with their reports, lines and waits."""

    def __init__(self, site: CityscapesSite, out: Path):
        self.site, self.out, self.package = site, out, site.packages[3]
        self.part = out / (NAME + ".part")
        self.lines: list[str] = []
        self.waits: list[float] = []
        self.reports: list[Progress] = []

    def __call__(self, report: Callable[[Progress], object] | None = None, look_for_change: bool = False) -> Download:
        manner = Manner(IMPATIENT, report or self.reports.append, self.lines.append, self.waits.append)  # type: ignore[arg-type]
        return download(self.out, manner, look_for_change=look_for_change)

    def completes(self, package: Path | None = None) -> Download:
        done = self()
        self.is_whole(package)
        return done

    def fails(self, words: str, **how: object) -> FoveaError:
        with pytest.raises(FoveaError, match=words) as caught:
            self(**how)  # type: ignore[arg-type]
        return caught.value

    def breaks_off(self, after: int = 1_000_000, **how: object) -> int:
        """A download that ends with about `after` bytes in the part; how many there are."""
        self.site.fail(FILE, Fault(drop_after=after, **how), *[Fault(status=503)] * IMPATIENT.attempts)  # type: ignore[arg-type]
        self.fails(r"503.*kept, run again to go on")
        self.site.faults.clear()
        self.has_nothing_final()
        assert self.kept() > 0
        return self.kept()

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def kept(self) -> int:
        return self.part.stat().st_size

    def asked(self, since: int = 0) -> list[tuple[str | None, int]]:
        """Range and status of each request for the file."""
        return [(ranged, status) for _, path, ranged, status in self.site.requests[since:] if path == FILE]

    def has(self, package: Path) -> bool:
        return (self.out / NAME).read_bytes() == package.read_bytes()

    def is_whole(self, package: Path | None = None) -> None:
        assert self.has(package or self.package)
        names = sorted(path.name for path in self.out.iterdir() if not path.name.endswith(".lock"))
        assert names == [NAME, NAME + ".json"]

    def has_nothing_final(self) -> None:
        assert not (self.out / NAME).exists() and not (self.out / (NAME + ".json")).exists()


@pytest.fixture
def run(packages: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A site with one package, an account in the environment, and a folder that is not there yet."""
    with CityscapesSite({3: packages[0]}, password=PASSWORD) as site:
        for name in ("ROOT", "CREDENTIALS_FILE"):
            monkeypatch.delenv(f"CITYSCAPES_{name}", raising=False)
        for name, value in {"URL": site.url, "USERNAME": site.username, "PASSWORD": PASSWORD}.items():
            monkeypatch.setenv(f"CITYSCAPES_{name}", value)
        yield Run(site, tmp_path / "out")


# ------------------------------------------------------------------------------------------ when all is well


def test_whole_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not asked about loopback
    done = run.completes()
    assert done == Download(run.out / NAME, run.site.md5(3), run.package.stat().st_size, run.package.stat().st_size)
    asked = [f"{verb} {path}" for verb, path, *_ in run.site.requests]
    assert asked == ["GET /login", "POST /login", "GET /downloads/", "GET /md5-sum/", f"GET {FILE}"]
    for phase in ("download", "verify"):
        reports = [report for report in run.reports if report.phase == phase]
        assert reports[-1].done_bytes == reports[-1].total_bytes == done.size_bytes
        assert reports == sorted(reports, key=lambda report: report.done_bytes)
        assert any(report.rate_bytes_s > 0 and report.eta_s is not None for report in reports)


def test_finished_archive_needs_no_site(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_finished(run.out) is None
    first = run()
    monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("CITYSCAPES_PASSWORD")
    assert run() == find_finished(run.out) == first._replace(received_bytes=0)
    os.utime(run.out / NAME, (1, 1))
    assert find_finished(run.out) is None
    assert run() == find_finished(run.out) == first._replace(received_bytes=0)  # it was read again
    assert run.reports[-1].phase == "verify"


def test_changed_package_is_found_and_replaces_the_old_one(run: Run, other_package: Path) -> None:
    run()
    manner = Manner(IMPATIENT)
    assert find_change(run.out, manner) is None and run(look_for_change=True).received_bytes == 0
    run.site.replace(3, other_package)
    assert find_change(run.out, manner) == run.site.md5(3)
    assert run().path.read_bytes() == run.package.read_bytes()  # not asked to look
    run.site.always[FILE] = Fault(status=503)
    run.fails("503", look_for_change=True)
    assert run().path.read_bytes() == run.package.read_bytes()  # the old one stays while the new one fails
    run.site.always.clear()
    assert run(look_for_change=True).checksum == run.site.md5(3)
    run.is_whole(other_package)


def test_killed_between_the_name_and_its_notes(run: Run, other_package: Path) -> None:
    run()
    (run.out / (NAME + ".json")).unlink()
    assert run().received_bytes == 0
    run.site.replace(3, other_package)
    shutil.copy(other_package, run.out / NAME)  # of the same size, with the notes of the file before it
    assert run().checksum == run.site.md5(3) and run.site.count(FILE) == 1
    run.is_whole(other_package)


def test_file_of_the_users_is_adopted_or_left_alone(run: Run, other_package: Path) -> None:
    run.out.mkdir()
    shutil.copy(other_package, run.out / NAME)
    run.fails("CITYSCAPES_ROOT")
    assert run.has(other_package)
    shutil.copy(run.package, run.out / NAME)
    assert run().received_bytes == 0 and run.site.count(FILE) == 0


# ------------------------------------------------------------------------------------------ the network


def test_dropped_connections_are_resumed(run: Run) -> None:
    run.site.fail(FILE, *[Fault(drop_after=400_000)] * 6)  # more than `attempts`, but each brings something
    done = run.completes()
    (first, _), *others = run.asked()
    assert first is None and len(others) == 6
    assert all(ranged is not None and status == 206 for ranged, status in others)
    assert done.received_bytes == done.size_bytes


def test_size_that_is_not_stated(run: Run) -> None:
    run.site.fail(FILE, Fault(chunked=True, drop_after=400_000))  # an early end is noticed
    run.completes()
    assert run.asked()[1][1] == 206
    run.site.always[FILE] = Fault(chunked=True)
    again = Run(run.site, run.out.with_name("again"))
    again()
    again.is_whole()
    assert {r.total_bytes for r in again.reports if r.phase == "download"} == {None}


def test_server_that_ignores_ranges_restarts(run: Run) -> None:
    run.site.fail(FILE, Fault(drop_after=1_000_000), Fault(ignore_range=True))
    done = run.completes()
    assert [status for _, status in run.asked()] == [200, 200] and run.asked()[1][0] is not None
    assert done.received_bytes > done.size_bytes and run.said("whole file again")


def test_server_that_ignores_ranges_and_always_drops_ends(run: Run, other_package: Path) -> None:
    run.site.always[FILE] = Fault(drop_after=1_000_000, ignore_range=True)
    run.fails("kept, run again")
    run.has_nothing_final()
    assert run.site.count(FILE) <= 2 * IMPATIENT.attempts
    # the part of an older file is dropped
    run.site.always.clear()
    run.site.replace(3, other_package)
    before = len(run.site.requests)
    run.completes(other_package)
    assert [ranged for ranged, _ in run.asked(before)] == [None]


@pytest.mark.parametrize("marks", ["etag", "date", "none"])
@pytest.mark.parametrize("size", [3_000_000, 3_500_000])
def test_changed_file_restarts(run: Run, tmp_path: Path, marks: str, size: int) -> None:
    changed = make_package(tmp_path, 3, size)
    os.utime(changed, (1_000_000_000, 1_000_000_000))
    if marks != "etag":
        run.site.etags = None
    run.site.send_dates = marks == "date"
    run.site.fail(FILE, Fault(drop_after=1_000_000), Fault(call=lambda: run.site.replace(3, changed)))
    done = run.completes(changed)
    assert done.checksum == hashlib.md5(changed.read_bytes()).hexdigest()
    ranged, status = run.asked()[1]
    assert ranged is not None and status == (206 if marks == "none" else 200)  # If-Range told the server


def test_range_from_another_place_restarts(run: Run) -> None:
    run.site.fail(FILE, Fault(drop_after=1_000_000), Fault(start_shift=-5))
    run.completes()
    assert run.said("changed on the server")
    assert not run.said("md5")  # noticed before a byte of it was taken


def test_damaged_part_is_found_by_md5_and_fetched_again(run: Run) -> None:
    run.breaks_off()
    data = bytearray(run.part.read_bytes())
    data[5000] ^= 1
    run.part.write_bytes(data)
    run.completes()
    assert run.said("once more")


def test_wrong_md5_twice(run: Run) -> None:
    run.site.md5s[3] = "0" * 32
    assert isinstance(run.fails("twice"), ChecksumError)
    run.has_nothing_final()
    assert not run.part.exists() and run.site.count(FILE) == 2


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/md5-sum/", Fault(expire=True)),
        (FILE, Fault(expire=True)),
        (FILE, Fault(body=b"<html>log in</html>", expire=True)),
        (FILE, Fault(status=403)),
    ],
)
def test_expired_session_logs_in_again(run: Run, path: str, answer: Fault) -> None:
    run.site.fail(FILE, *[Fault(drop_after=1_000_000)] * (path == FILE))
    run.site.fail(path, answer)
    done = run.completes()
    assert run.site.count("/login", "POST") == 2
    assert done.received_bytes == done.size_bytes  # nothing given up for the page


@pytest.mark.parametrize("content_type", ["text/html", "application/zip"])
def test_page_in_place_of_the_archive(run: Run, content_type: str) -> None:
    page = Fault(body=b"<html>maintenance</html>", content_type=content_type)
    run.site.fail(FILE, Fault(drop_after=1_000_000), *[page] * 3)
    run.fails(r"something else in place of the file.*log in with a browser")
    run.has_nothing_final()
    assert run.part.read_bytes() == run.package.read_bytes()[: run.kept()]
    done = run.completes()
    assert done.received_bytes < done.size_bytes


@pytest.mark.parametrize("path", ["/login", "POST /login", "/downloads/", "/md5-sum/", FILE])
def test_server_errors_are_retried_with_growing_waits(run: Run, path: str) -> None:
    run.site.fail(path, Fault(status=503), Fault(status=500), Fault(status=502))
    run.completes()
    assert len(run.waits) == 3
    for failure, wait in enumerate(run.waits):
        assert 0.5 * 2**failure <= wait <= 2**failure


def test_waits_are_bounded_and_differ_and_retry_after_is_heeded(run: Run) -> None:
    waits: list[float] = []
    patient = Manner(Policy(attempts=60, backoff_max_s=30), say=run.lines.append, sleep=waits.append)

    def fail() -> None:
        raise Transient("down")

    with pytest.raises(Transient):
        patient.retry(fail, "something")
    assert all(15 <= wait <= 30 for wait in waits[9:]) and len(set(waits[9:])) > 40
    run.site.fail(FILE, Fault(status=429, headers={"Retry-After": "77"}))
    run()
    assert run.waits == [77.0]


def test_what_came_before_endless_errors_is_kept_and_needs_no_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = run.package.stat().st_size - run.breaks_off()
    monkeypatch.setattr(download_module, "free_bytes", lambda folder: rest)
    assert run.completes().received_bytes == rest


def test_asking_past_the_end(run: Run) -> None:
    # No size stated and the very last answer lost: the next run asks for what lies past the end.
    size = run.package.stat().st_size
    run.breaks_off(after=size, chunked=True)
    run.part.write_bytes(run.package.read_bytes())  # a reset may cost what was under way
    before = len(run.site.requests)
    run.completes()
    assert run.asked(before) == [(f"bytes={size}-", 416)]


@pytest.mark.parametrize(("more", "requests"), [(b"", 0), (b"more", 1)])
def test_part_that_is_whole_or_too_long(run: Run, more: bytes, requests: int) -> None:
    run.breaks_off()
    run.part.write_bytes(run.package.read_bytes() + more)
    before = run.site.count(FILE)
    run.completes()
    assert run.site.count(FILE) == before + requests


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault(stall_after=1_000_000), "no answer in time"), (Fault(piece=64, pause_s=0.02), "bytes in")],
)
def test_silence_and_a_trickle_are_given_up(run: Run, fault: Fault, words: str) -> None:
    run.site.fail(FILE, fault)
    run.completes()
    assert run.said(words)


def test_slow_line_is_borne(run: Run, tmp_path: Path) -> None:
    small = make_package(tmp_path, 5, 60_000)
    run.site.packages[3] = small
    run.site.always[FILE] = Fault(piece=2000, pause_s=0.03)
    run.completes(small)
    assert run.site.count(FILE) == 1


def test_a_site_that_is_away_or_offers_other_things(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/downloads/", "/md5-sum/"):
        run.site.always = {path: Fault(body=b'{"a": 1}', content_type="application/json")}
        run.fails("did the site change")
    run.site.always.clear()
    run.site.packages[3] = Path(shutil.copy(run.package, tmp_path / "gtFine.zip"))
    run.fails(rf"no package '{NAME}'; it offers: gtFine.zip")
    monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    run.fails(r"failed 4 times.*refused")
    run.has_nothing_final()


def test_redirects_are_not_followed(run: Run) -> None:
    with CityscapesSite({3: run.package}, password=PASSWORD) as trap:
        for status in (301, 307, 308):
            run.site.always["/login"] = Fault(status=status, headers={"Location": trap.url + "/login"})
            run.fails("set CITYSCAPES_URL")
        assert trap.requests == []
    assert run.site.count("/login", "POST") == 0


# ------------------------------------------------------------------------------------------ the disk


def test_too_little_space_is_said_before_the_first_byte(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "free_bytes", lambda folder: run.package.stat().st_size - 1)
    run.fails("make room")
    run.has_nothing_final()
    assert not run.part.exists()


def test_disk_that_fills_up(run: Run, mount: Callable[..., Path]) -> None:
    disk = mount("size=5m")
    run = Run(run.site, disk / "out")

    def fill(_: Progress) -> None:
        try:
            with (disk / "filler").open("ab", buffering=0) as file:
                while file.write(b"x" * 4096) == 4096:
                    pass
        except OSError as error:
            assert error.errno == errno.ENOSPC

    run.site.always[FILE] = Fault(piece=100_000, pause_s=0.002)
    run.fails("disk is full", report=fill)
    run.has_nothing_final()
    kept = run.kept()
    assert 0 < kept < run.package.stat().st_size
    (disk / "filler").unlink()
    done = run()
    assert done.received_bytes == done.size_bytes - kept
    run.is_whole()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_errors_lose_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    honest = download_module._Transfer._write

    def write(self: download_module._Transfer, file: object, data: bytes) -> None:
        if self.offset + len(data) > 1_000_000:
            raise OSError(code, os.strerror(code))
        honest(self, file, data)

    monkeypatch.setattr(download_module._Transfer, "_write", write)
    run.fails("run again to go on")
    monkeypatch.setattr(download_module._Transfer, "_write", honest)
    kept = run.kept()
    done = run()
    assert kept > 0 and done.received_bytes == done.size_bytes - kept
    run.is_whole()


def test_folders_that_cannot_be_written(run: Run, mount: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    Run(run.site, tmp_path / "file").fails("choose another folder")
    assert (tmp_path / "file").read_text() == "mine"
    disk = mount("size=5m,ro")
    for out in (disk, disk / "deeper"):
        Run(run.site, out).fails("read-only")
    assert run.site.requests == []


def test_folder_that_disappears(run: Run) -> None:
    def remove(_: Progress) -> None:
        shutil.rmtree(run.out, ignore_errors=True)

    run.site.always[FILE] = Fault(piece=100_000, pause_s=0.005)
    run.fails("disappeared", report=remove)
    assert not run.out.exists()
    assert run.site.sent_bytes < run.package.stat().st_size // 2  # said at once, not at the end
    run.site.always.clear()
    run.completes()


def test_interrupted_callback_keeps_what_arrived(run: Run) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done_bytes > 1_000_000:
            raise KeyboardInterrupt

    run.site.always[FILE] = Fault(piece=100_000, pause_s=0.001)
    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    run.has_nothing_final()
    assert run().received_bytes < run.package.stat().st_size
    run.is_whole()


def test_one_download_at_a_time(run: Run) -> None:
    run.site.always[FILE] = Fault(piece=100_000, pause_s=0.01)
    first, second = run, Run(run.site, run.out)
    begun = threading.Event()
    results: list[Download] = []
    thread = threading.Thread(target=lambda: results.append(first(lambda _: begun.set())))
    thread.start()
    assert begun.wait(10)
    results.append(second())
    thread.join()
    run.is_whole()
    assert run.site.count(FILE) == 1 and second.said("waiting")
    assert sorted(result.received_bytes for result in results) == [0, run.package.stat().st_size]


def test_killed_at_random_moments(run: Run) -> None:
    script = "import pathlib, sys; from assets.frames.cityscapes import download; download(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(run.out)]
    run.site.rate_bytes_s = 6e6
    part, size = run.part, run.package.stat().st_size
    chooser = random.Random(5)
    kept = 0
    for threshold in sorted(chooser.randrange(size) for _ in range(5)):
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and (not part.exists() or part.stat().st_size < threshold):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        run.has_nothing_final()
        assert part.stat().st_size >= kept
        kept = part.stat().st_size
        assert part.read_bytes() == run.package.read_bytes()[:kept]
    run.site.rate_bytes_s = None
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    run.is_whole()
    assert hashlib.md5((run.out / NAME).read_bytes()).hexdigest() == run.site.md5(3)
    assert run.site.sent_bytes < 2 * size  # each run went on where the one before it was killed


# ------------------------------------------------------------------------------------------ the password


def everything_said(error: BaseException) -> str:
    """What a reader could ever see of an exception: chained, with the local variables of all frames but the test's."""
    shown = []
    seen: list[BaseException] = []
    waiting: deque[BaseException | None] = deque([error])
    while waiting:
        one = waiting.popleft()
        if one is None or one in seen:
            continue
        seen.append(one)
        shown += [repr(one), str(one)]
        frames = [frame for frame in traceback.walk_tb(one.__traceback__) if frame[0].f_code.co_filename != __file__]
        shown += [repr(value) for frame, _ in frames for value in frame.f_locals.values()]
        waiting += [one.__cause__, one.__context__]
    assert len(shown) > 2
    return "\n".join(shown)


@pytest.mark.parametrize("trouble", ["refused", "500", "drop", "redirect", "unreachable", "page", "teapot"])
def test_password_never_shows(run: Run, caplog: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Tr0ub4dor&3 §"
    monkeypatch.setenv("CITYSCAPES_PASSWORD", secret)
    if trouble != "refused":
        run.site.password = secret
    faults = {
        "500": Fault(status=500),
        "redirect": Fault(status=307, headers={"Location": "https://ada:x@elsewhere.invalid/"}),
        "page": Fault(body=b"<html>"),
        "teapot": Fault(status=418),
    }
    if trouble in faults:
        run.site.always["/login" if trouble in ("500", "redirect") else "/downloads/"] = faults[trouble]
    if trouble == "drop":
        run.site.fail("POST /login", *[Fault(call=lambda: (_ for _ in ()).throw(ConnectionAbortedError()))] * 4)
    if trouble == "unreachable":
        monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    with pytest.raises(FoveaError) as caught:
        run()
    texts = [everything_said(caught.value), caplog.text, *run.lines, *capfd.readouterr()]
    texts += [path.read_text("utf-8", "replace") for path in run.out.iterdir()]
    for text in texts:
        for form in (secret, "Tr0ub4dor", "Tr0ub4dor%263"):
            assert form not in text
    assert "\n" not in str(caught.value)
    if trouble == "refused":
        assert isinstance(caught.value, LoginRefused)
        assert run.site.count("/login", "POST") == 1  # a wrong password is not tried again


def test_secret() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    account = Credentials("ada", secret)
    for text in (str(secret), repr(secret), f"{secret}", f"{secret!r:>40}", str(account), repr([account])):
        assert "hunter2" not in text
    for leak in (pickle.dumps, copy.deepcopy, json.dumps, vars):
        with pytest.raises(TypeError):
            leak(secret)  # type: ignore[operator]


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a credentials file, and no other account."""
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"CITYSCAPES_{name}", raising=False)
    monkeypatch.setenv("CITYSCAPES_CREDENTIALS_FILE", str(tmp_path / "account"))
    return tmp_path / "account"


@pytest.mark.parametrize(
    "text",
    [
        '{"username": "ada", "password": "p=w:1 "}',
        "username = ada\npassword = 'p=w:1 '\n",
        'export=1\nCITYSCAPES_USERNAME=ada\nCITYSCAPES_PASSWORD="p=w:1 "\n',
        "username: ada\npassword: 'p=w:1 '",
    ],
)
def test_credentials_file(account: Path, text: str) -> None:
    account.write_text(text)
    username, password = read_credentials()
    assert (username, password.reveal()) == ("ada", "p=w:1 ")


USELESS = ["", "hunter2", '{"password": "hunter2"}', '["hunter2"]', "username=\npassword=hunter2"]


@pytest.mark.parametrize("text", USELESS)
def test_useless_credentials_file(account: Path, text: str) -> None:
    account.write_text(text)
    with pytest.raises(FoveaError, match="CITYSCAPES_CREDENTIALS_FILE") as caught:
        read_credentials()
    assert "hunter2" not in everything_said(caught.value)


def test_no_credentials(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FoveaError, match="account: No such file"):
        read_credentials()
    monkeypatch.delenv("CITYSCAPES_CREDENTIALS_FILE")
    with pytest.raises(FoveaError, match="CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD"):
        read_credentials()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://www.cityscapes-dataset.com", "in clear"),
        ("https://ada:hunter2@www.cityscapes-dataset.com", "names an account"),
        ("ftp://x", "no web address"),
        ("www.cityscapes-dataset.com", "no web address"),
    ],
)
def test_unfit_base_url(run: Run, monkeypatch: pytest.MonkeyPatch, url: str, reason: str) -> None:
    monkeypatch.setenv("CITYSCAPES_URL", url)
    assert "hunter2" not in str(run.fails(reason))
