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
PART = NAME + ".part"
# Impatient, so that a test of patience takes a fraction of a second; waits are recorded, not slept.
IMPATIENT = Policy(
    attempts=4,
    connect_timeout_s=2,
    read_timeout_s=0.4,
    stall_window_s=0.4,
    min_rate_bytes_s=20_000,
    progress_bytes=1 << 16,
    report_every_s=0.0,
    spare_bytes=0,
)


def make_package(folder: Path, seed: int, size: int = 3_000_000) -> Path:
    """A zip that does not compress; the same size for each seed."""
    path = folder / f"{seed}" / NAME
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("blob"), random.Random(seed).randbytes(size))
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package"), 1)


@pytest.fixture(scope="module")
def other_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("other"), 2)


@pytest.fixture
def site(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CityscapesSite]:
    with CityscapesSite({3: package}, password=PASSWORD) as site:
        for name in ("CITYSCAPES_ROOT", "CITYSCAPES_CREDENTIALS_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CITYSCAPES_URL", site.url)
        monkeypatch.setenv("CITYSCAPES_USERNAME", site.username)
        monkeypatch.setenv("CITYSCAPES_PASSWORD", PASSWORD)
        yield site


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Run:
    """Downloads into one folder, with their reports, lines and waits."""

    def __init__(self, out: Path):
        self.out = out
        self.lines: list[str] = []
        self.waits: list[float] = []
        self.reports: list[Progress] = []

    def __call__(
        self, report: Callable[[Progress], object] | None = None, look_for_change: bool = False
    ) -> Download:
        manner = Manner(IMPATIENT, report or self.reports.append, self.lines.append, self.waits.append)  # type: ignore[arg-type]
        return download(self.out, manner, look_for_change=look_for_change)

    def said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def kept(self) -> int:
        return (self.out / PART).stat().st_size


@pytest.fixture
def run(out: Path) -> Run:
    return Run(out)


def same(path: Path, package: Path) -> bool:
    return path.read_bytes() == package.read_bytes()


def require_whole(out: Path, package: Path) -> None:
    assert same(out / NAME, package)
    assert sorted(path.name for path in out.iterdir() if not path.name.endswith(".lock")) == [
        NAME,
        NAME + ".json",
    ]


def require_nothing_final(out: Path) -> None:
    assert not (out / NAME).exists()
    assert not (out / (NAME + ".json")).exists()


def asked(site: CityscapesSite, since: int = 0) -> list[tuple[str | None, int]]:
    """Range and status of each request for the file."""
    return [(ranged, status) for _, path, ranged, status in site.requests[since:] if path == FILE]


def break_off(site: CityscapesSite, run: Run, after: int = 1_000_000, **how: object) -> None:
    """A download that ends with about `after` bytes in the part."""
    site.fail(FILE, Fault(drop_after=after, **how), *[Fault(status=503)] * IMPATIENT.attempts)  # type: ignore[arg-type]
    with pytest.raises(FoveaError, match=r"503.*kept, run again to go on"):
        run()
    site.faults.clear()
    require_nothing_final(run.out)
    assert run.kept() > 0


# ------------------------------------------------------------------------------------------ when all is well


def test_whole_way(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    done = run()
    require_whole(out, package)
    assert done == Download(out / NAME, site.md5(3), package.stat().st_size, package.stat().st_size)
    assert [request[:2] for request in site.requests] == [
        ("GET", "/login"),
        ("POST", "/login"),
        ("GET", "/downloads/"),
        ("GET", "/md5-sum/"),
        ("GET", FILE),
    ]
    for phase in ("download", "verify"):
        reports = [report for report in run.reports if report.phase == phase]
        assert reports[-1].done_bytes == reports[-1].total_bytes == done.size_bytes
        assert reports == sorted(reports, key=lambda report: report.done_bytes)
        assert any(report.rate_bytes_s > 0 and report.eta_s is not None for report in reports)


def test_finished_archive_needs_no_site(
    site: CityscapesSite, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_finished(out) is None
    first = run()
    monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("CITYSCAPES_PASSWORD")
    assert run() == find_finished(out) == first._replace(received_bytes=0)
    os.utime(out / NAME, (1, 1))
    assert find_finished(out) is None
    assert run() == find_finished(out) == first._replace(received_bytes=0)  # it was read again
    assert run.reports[-1].phase == "verify"


def test_changed_package_is_found_and_replaces_the_old_one(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    run()
    manner = Manner(IMPATIENT)
    assert find_change(out, manner) is None
    assert run(look_for_change=True).received_bytes == 0
    site.replace(3, other_package)
    assert find_change(out, manner) == site.md5(3)
    assert same(run().path, package)  # not asked to look
    site.always[FILE] = Fault(status=503)
    with pytest.raises(FoveaError, match="503"):
        run(look_for_change=True)
    assert same(run().path, package)  # the old one stays while the new one fails
    site.always.clear()
    assert run(look_for_change=True).checksum == site.md5(3)
    require_whole(out, other_package)


def test_killed_between_the_name_and_its_notes(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    run()
    (out / (NAME + ".json")).unlink()
    assert run().received_bytes == 0
    site.replace(3, other_package)
    shutil.copy(other_package, out / NAME)  # of the same size, with the notes of the file before it
    assert run().checksum == site.md5(3)
    assert site.count(FILE) == 1
    require_whole(out, other_package)


def test_proxy_is_not_asked_about_loopback(
    site: CityscapesSite, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    run()
    require_whole(run.out, package)


def test_file_of_the_users_is_adopted_or_left_alone(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    out.mkdir()
    shutil.copy(other_package, out / NAME)
    with pytest.raises(FoveaError, match="CITYSCAPES_ROOT"):
        run()
    assert same(out / NAME, other_package)
    shutil.copy(package, out / NAME)
    assert run().received_bytes == 0
    assert site.count(FILE) == 0


# ------------------------------------------------------------------------------------------ the network


def test_dropped_connections_are_resumed(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, *[Fault(drop_after=400_000)] * 6)  # more than `attempts`, but each brings something
    done = run()
    require_whole(out, package)
    (first, _), *others = asked(site)
    assert first is None and len(others) == 6
    assert all(ranged is not None and status == 206 for ranged, status in others)
    assert done.received_bytes == done.size_bytes


def test_size_that_is_not_stated(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(chunked=True, drop_after=400_000))  # an early end is noticed
    run()
    require_whole(out, package)
    assert asked(site)[1][1] == 206
    site.always[FILE] = Fault(chunked=True)
    again = Run(out.with_name("again"))
    again()
    require_whole(again.out, package)
    assert {r.total_bytes for r in again.reports if r.phase == "download"} == {None}


def test_server_that_ignores_ranges_restarts(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(ignore_range=True))
    done = run()
    require_whole(out, package)
    assert [status for _, status in asked(site)] == [200, 200]
    assert asked(site)[1][0] is not None
    assert done.received_bytes > done.size_bytes
    assert run.said("whole file again")


def test_server_that_ignores_ranges_and_always_drops_ends(
    site: CityscapesSite, run: Run, out: Path, other_package: Path
) -> None:
    site.always[FILE] = Fault(drop_after=1_000_000, ignore_range=True)
    with pytest.raises(FoveaError, match="kept, run again"):
        run()
    require_nothing_final(out)
    assert site.count(FILE) <= 2 * IMPATIENT.attempts
    # the part of an older file is dropped
    site.always.clear()
    site.replace(3, other_package)
    before = len(site.requests)
    run()
    require_whole(out, other_package)
    assert [ranged for ranged, _ in asked(site, before)] == [None]


@pytest.mark.parametrize("marks", ["etag", "date", "none"])
@pytest.mark.parametrize("size", [3_000_000, 3_500_000])
def test_changed_file_restarts(
    site: CityscapesSite, run: Run, out: Path, tmp_path: Path, marks: str, size: int
) -> None:
    changed = make_package(tmp_path, 3, size)
    os.utime(changed, (1_000_000_000, 1_000_000_000))
    if marks != "etag":
        site.etags = None
    site.send_dates = marks == "date"
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(call=lambda: site.replace(3, changed)))
    done = run()
    require_whole(out, changed)
    assert done.checksum == hashlib.md5(changed.read_bytes()).hexdigest()
    ranged, status = asked(site)[1]
    assert ranged is not None and status == (206 if marks == "none" else 200)  # If-Range told the server


def test_range_from_another_place_restarts(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(start_shift=-5))
    run()
    require_whole(out, package)
    assert run.said("changed on the server")
    assert not run.said("md5")  # noticed before a byte of it was taken


def test_damaged_part_is_found_by_md5_and_fetched_again(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    break_off(site, run)
    data = bytearray((out / PART).read_bytes())
    data[5000] ^= 1
    (out / PART).write_bytes(data)
    run()
    require_whole(out, package)
    assert run.said("once more")


def test_wrong_md5_twice(site: CityscapesSite, run: Run, out: Path) -> None:
    site.md5s[3] = "0" * 32
    with pytest.raises(ChecksumError, match="twice"):
        run()
    require_nothing_final(out)
    assert not (out / PART).exists()
    assert site.count(FILE) == 2


@pytest.mark.parametrize("answer", ["redirect", "page", "forbidden"])
def test_expired_session_logs_in_again(
    site: CityscapesSite, run: Run, out: Path, package: Path, answer: str
) -> None:
    second = {
        "redirect": Fault(expire=True),
        "page": Fault(body=b"<html>log in</html>", expire=True),
        "forbidden": Fault(status=403),
    }[answer]
    site.fail(FILE, Fault(drop_after=1_000_000), second)
    done = run()
    require_whole(out, package)
    assert site.count("/login", "POST") == 2
    assert done.received_bytes == done.size_bytes  # nothing given up for the page


def test_session_that_expires_before_the_md5(site: CityscapesSite, run: Run, package: Path) -> None:
    site.fail("/md5-sum/", Fault(expire=True))
    run()
    require_whole(run.out, package)
    assert site.count("/login", "POST") == 2


@pytest.mark.parametrize("content_type", ["text/html", "application/zip"])
def test_page_in_place_of_the_archive(
    site: CityscapesSite, run: Run, out: Path, package: Path, content_type: str
) -> None:
    page = Fault(body=b"<html>maintenance</html>", content_type=content_type)
    site.fail(FILE, Fault(drop_after=1_000_000), *[page] * 3)
    with pytest.raises(FoveaError, match=r"something else in place of the file.*log in with a browser"):
        run()
    require_nothing_final(out)
    assert (out / PART).read_bytes() == package.read_bytes()[: run.kept()]
    done = run()
    require_whole(out, package)
    assert done.received_bytes < done.size_bytes


@pytest.mark.parametrize("path", ["/login", "POST /login", "/downloads/", "/md5-sum/", FILE])
def test_server_errors_are_retried_with_growing_waits(site: CityscapesSite, run: Run, path: str) -> None:
    site.fail(path, Fault(status=503), Fault(status=500), Fault(status=502))
    run()
    require_whole(run.out, site.packages[3])
    assert len(run.waits) == 3
    for failure, wait in enumerate(run.waits):
        assert 0.5 * 2**failure <= wait <= 2**failure


def test_waits_are_bounded_and_differ_and_retry_after_is_heeded(site: CityscapesSite, run: Run) -> None:
    waits: list[float] = []
    patient = Manner(Policy(attempts=60, backoff_max_s=30), say=run.lines.append, sleep=waits.append)

    def fail() -> None:
        raise Transient("down")

    with pytest.raises(Transient):
        patient.retry(fail, "something")
    assert all(15 <= wait <= 30 for wait in waits[9:])
    assert len(set(waits[9:])) > 40
    site.fail(FILE, Fault(status=429, headers={"Retry-After": "77"}))
    run()
    assert run.waits == [77.0]


def test_endless_server_errors_end_with_what_arrived_kept(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    break_off(site, run)
    kept = run.kept()
    assert run().received_bytes == package.stat().st_size - kept
    require_whole(out, package)


def test_asking_past_the_end(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    # No size stated and the very last answer lost: the next run asks for what lies past the end.
    size = package.stat().st_size
    break_off(site, run, after=size, chunked=True)
    (out / PART).write_bytes(package.read_bytes())  # a reset may cost what was under way
    before = len(site.requests)
    run()
    require_whole(out, package)
    assert asked(site, before) == [(f"bytes={size}-", 416)]


@pytest.mark.parametrize(("more", "requests"), [(b"", 0), (b"more", 1)])
def test_part_that_is_whole_or_too_long(
    site: CityscapesSite, run: Run, out: Path, package: Path, more: bytes, requests: int
) -> None:
    break_off(site, run)
    (out / PART).write_bytes(package.read_bytes() + more)
    before = site.count(FILE)
    run()
    require_whole(out, package)
    assert site.count(FILE) == before + requests


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(stall_after=1_000_000), "no answer in time"),
        (Fault(piece=64, pause_s=0.02), "bytes in"),
    ],
)
def test_silence_and_a_trickle_are_given_up(
    site: CityscapesSite, run: Run, out: Path, package: Path, fault: Fault, words: str
) -> None:
    site.fail(FILE, fault)
    run()
    require_whole(out, package)
    assert run.said(words)


def test_slow_line_is_borne(site: CityscapesSite, run: Run, tmp_path: Path) -> None:
    small = make_package(tmp_path, 5, 60_000)
    site.packages[3] = small
    site.always[FILE] = Fault(piece=2000, pause_s=0.03)
    run()
    require_whole(run.out, small)
    assert site.count(FILE) == 1


def test_unreachable_site(run: Run, site: CityscapesSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    with pytest.raises(FoveaError, match=r"failed 4 times.*refused"):
        run()
    require_nothing_final(run.out)


@pytest.mark.parametrize("path", ["/downloads/", "/md5-sum/"])
def test_nonsense_answers(site: CityscapesSite, run: Run, path: str) -> None:
    site.always[path] = Fault(body=b'{"a": 1}', content_type="application/json")
    with pytest.raises(FoveaError, match="did the site change"):
        run()


def test_account_without_the_package(site: CityscapesSite, run: Run, package: Path, tmp_path: Path) -> None:
    site.packages[3] = Path(shutil.copy(package, tmp_path / "gtFine.zip"))
    with pytest.raises(FoveaError, match=rf"no package '{NAME}'; it offers: gtFine.zip"):
        run()


def test_redirects_are_not_followed(site: CityscapesSite, run: Run, package: Path) -> None:
    with CityscapesSite({3: package}, password=PASSWORD) as trap:
        for status in (301, 307, 308):
            site.always["/login"] = Fault(status=status, headers={"Location": trap.url + "/login"})
            with pytest.raises(FoveaError, match="set CITYSCAPES_URL"):
                run()
        assert trap.requests == []
    assert site.count("/login", "POST") == 0


# ------------------------------------------------------------------------------------------ the disk


def test_too_little_space_is_said_before_the_first_byte(
    site: CityscapesSite, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "free_bytes", lambda folder: 2_999_999)
    with pytest.raises(FoveaError, match="make room"):
        run()
    require_nothing_final(out)
    assert not (out / PART).exists()


def test_resuming_needs_only_the_rest(
    site: CityscapesSite, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(site, run, after=1_500_000)
    room = package.stat().st_size - run.kept()
    monkeypatch.setattr(download_module, "free_bytes", lambda folder: room)
    run()
    require_whole(run.out, package)


def test_disk_that_fills_up(site: CityscapesSite, mount: Callable[..., Path], package: Path) -> None:
    disk = mount("size=5m")
    run = Run(disk / "out")

    def fill(_: Progress) -> None:
        try:
            with (disk / "filler").open("ab", buffering=0) as file:
                while file.write(b"x" * 4096) == 4096:
                    pass
        except OSError as error:
            assert error.errno == errno.ENOSPC

    site.always[FILE] = Fault(piece=100_000, pause_s=0.002)
    with pytest.raises(FoveaError, match="disk is full"):
        run(fill)
    require_nothing_final(run.out)
    kept = run.kept()
    assert 0 < kept < package.stat().st_size
    (disk / "filler").unlink()
    done = run()
    assert done.received_bytes == done.size_bytes - kept
    require_whole(run.out, package)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_errors_lose_nothing(
    site: CityscapesSite, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    honest = download_module._Transfer._write

    def write(self: download_module._Transfer, file: object, data: bytes) -> None:
        if self.offset + len(data) > 1_000_000:
            raise OSError(code, os.strerror(code))
        honest(self, file, data)

    monkeypatch.setattr(download_module._Transfer, "_write", write)
    with pytest.raises(FoveaError, match="run again to go on"):
        run()
    monkeypatch.setattr(download_module._Transfer, "_write", honest)
    kept = run.kept()
    done = run()
    assert kept > 0 and done.received_bytes == done.size_bytes - kept
    require_whole(run.out, package)


def test_folders_that_cannot_be_written(
    site: CityscapesSite, mount: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FoveaError, match="choose another folder"):
        Run(tmp_path / "file")()
    assert (tmp_path / "file").read_text() == "mine"
    disk = mount("size=5m,ro")
    for out in (disk, disk / "deeper"):
        with pytest.raises(FoveaError, match="read-only"):
            Run(out)()
    assert site.requests == []


def test_folder_that_disappears(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    def remove(_: Progress) -> None:
        shutil.rmtree(out, ignore_errors=True)

    site.always[FILE] = Fault(piece=100_000, pause_s=0.005)
    with pytest.raises(FoveaError, match="disappeared"):
        run(remove)
    assert not out.exists()
    assert site.sent_bytes < package.stat().st_size // 2  # said at once, not at the end
    site.always.clear()
    run()
    require_whole(out, package)


def test_interrupted_callback_keeps_what_arrived(site: CityscapesSite, run: Run, package: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done_bytes > 1_000_000:
            raise KeyboardInterrupt

    site.always[FILE] = Fault(piece=100_000, pause_s=0.001)
    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    require_nothing_final(run.out)
    assert run().received_bytes < package.stat().st_size
    require_whole(run.out, package)


def test_one_download_at_a_time(site: CityscapesSite, out: Path, package: Path) -> None:
    site.always[FILE] = Fault(piece=100_000, pause_s=0.01)
    first, second = Run(out), Run(out)
    begun = threading.Event()
    results: list[Download] = []
    thread = threading.Thread(target=lambda: results.append(first(lambda _: begun.set())))
    thread.start()
    assert begun.wait(10)
    results.append(second())
    thread.join()
    require_whole(out, package)
    assert site.count(FILE) == 1
    assert second.said("waiting")
    assert sorted(result.received_bytes for result in results) == [0, package.stat().st_size]


def test_killed_at_random_moments(site: CityscapesSite, out: Path, package: Path) -> None:
    script = f"from pathlib import Path; from assets.frames.cityscapes import download; download(Path({str(out)!r}))"
    command = [sys.executable, "-c", script]
    site.rate_bytes_s = 6e6
    part = out / PART
    size = package.stat().st_size
    chooser = random.Random(5)
    kept = 0
    for threshold in sorted(chooser.randrange(size) for _ in range(5)):
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and (not part.exists() or part.stat().st_size < threshold):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        require_nothing_final(out)
        assert part.stat().st_size >= kept
        kept = part.stat().st_size
        assert part.read_bytes() == package.read_bytes()[:kept]
    site.rate_bytes_s = None
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    require_whole(out, package)
    assert hashlib.md5((out / NAME).read_bytes()).hexdigest() == site.md5(3)
    assert site.sent_bytes < 2 * size  # each run went on where the one before it was killed


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
        frames = [
            frame for frame in traceback.walk_tb(one.__traceback__) if frame[0].f_code.co_filename != __file__
        ]
        shown += [repr(value) for frame, _ in frames for value in frame.f_locals.values()]
        waiting += [one.__cause__, one.__context__]
    assert len(shown) > 2
    return "\n".join(shown)


@pytest.mark.parametrize(
    "trouble",
    ["refused", "500", "drop", "redirect", "unreachable", "page", "teapot"],
)
def test_password_is_never_shown(
    site: CityscapesSite,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "Tr0ub4dor&3 §"
    monkeypatch.setenv("CITYSCAPES_PASSWORD", secret)
    if trouble != "refused":
        site.password = secret
    faults = {
        "500": Fault(status=500),
        "redirect": Fault(status=307, headers={"Location": "https://ada:x@elsewhere.invalid/"}),
        "page": Fault(body=b"<html>"),
        "teapot": Fault(status=418),
    }
    if trouble in faults:
        site.always["/login" if trouble in ("500", "redirect") else "/downloads/"] = faults[trouble]
    if trouble == "drop":
        site.fail("POST /login", *[Fault(call=lambda: (_ for _ in ()).throw(ConnectionAbortedError()))] * 4)
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
        assert site.count("/login", "POST") == 1  # a wrong password is not tried again


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


@pytest.mark.parametrize(
    "text", ["", "hunter2", '{"password": "hunter2"}', '["hunter2"]', "username=\npassword=hunter2"]
)
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
def test_unfit_base_url(
    site: CityscapesSite, run: Run, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.setenv("CITYSCAPES_URL", url)
    with pytest.raises(FoveaError, match=reason) as caught:
        run()
    assert "hunter2" not in str(caught.value)
