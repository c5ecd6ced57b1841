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
from servers.made_cityscapes import FEW_COUNTS, write_archive

from assets.frames import cityscapes
from assets.frames.archive import ARCHIVE_NAME, Source
from assets.frames.cityscapes import (
    Credentials,
    Download,
    LoginRefused,
    Policy,
    Progress,
    Secret,
    download,
    find_change,
    obtain,
    parse_size,
    read_credentials,
)
from models.errors import FoveaError

ROOT = Path(__file__).parents[3]
NAME = "made.zip"
PASSWORD = "pass word&§9"
FILE = "/file-handling/"
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
    """One download with its reports, lines and waits."""

    def __init__(self, out: Path, policy: Policy = IMPATIENT):
        self.out, self.policy = out, policy
        self.lines: list[str] = []
        self.waits: list[float] = []
        self.reports: list[Progress] = []

    def __call__(self, **settings: object) -> Download:
        given = {
            "package": NAME,
            "policy": self.policy,
            "say": self.lines.append,
            "sleep": self.waits.append,
            "report": self.reports.append,
        }
        return download(self.out, **(given | settings))  # type: ignore[arg-type]


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


def statuses(site: CityscapesSite) -> list[tuple[str | None, int]]:
    return [(ranged, status) for _, path, ranged, status in site.requests if path == FILE]


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
    assert run.reports[-1].done_bytes == run.reports[-1].total_bytes == done.size_bytes
    assert [report.done_bytes for report in run.reports] == sorted(
        report.done_bytes for report in run.reports
    )
    assert any(report.rate_bytes_s > 0 and report.eta_s is not None for report in run.reports)
    assert "MB/s" in str(run.reports[-1])


def test_finished_archive_needs_no_site(
    site: CityscapesSite, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    monkeypatch.setenv("CITYSCAPES_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("CITYSCAPES_PASSWORD")
    assert run() == first._replace(received_bytes=0)


def test_changed_package_is_found_and_replaces_the_old_one(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    run()
    assert find_change(out, package=NAME, policy=IMPATIENT) is None
    assert run(look_for_change=True).received_bytes == 0
    site.replace(3, other_package)
    assert find_change(out, package=NAME, policy=IMPATIENT) == site.md5(3)
    assert same(run().path, package)  # not asked to look
    assert run(look_for_change=True).md5 == site.md5(3)
    require_whole(out, other_package)


def test_old_archive_stays_while_the_new_one_fails(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    run()
    site.replace(3, other_package)
    site.always[FILE] = Fault(status=503)
    with pytest.raises(FoveaError, match="503"):
        run(look_for_change=True)
    assert same(out / NAME, package)
    assert run().md5 == hashlib.md5(package.read_bytes()).hexdigest()


def test_killed_between_the_name_and_its_notes(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path
) -> None:
    run()
    (out / (NAME + ".json")).unlink()
    assert run().received_bytes == 0
    site.replace(3, other_package)
    shutil.copy(other_package, out / NAME)  # of the same size, with the notes of the file before it
    assert run().md5 == site.md5(3)
    assert site.count(FILE) == 1
    require_whole(out, other_package)


def test_touched_archive_is_read_again_without_the_site(
    site: CityscapesSite, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    os.utime(out / NAME, (1, 1))
    before = len(site.requests)
    assert run() == first._replace(received_bytes=0)
    assert run.reports[-1].phase == "verify"
    assert len(site.requests) == before


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
    ranges = [ranged for ranged, _ in statuses(site)]
    assert ranges[0] is None and all(ranged is not None for ranged in ranges[1:]) and len(ranges) == 7
    assert {status for _, status in statuses(site)[1:]} == {206}
    assert done.received_bytes == done.size_bytes


def test_early_end_without_a_size_is_noticed(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    site.fail(FILE, Fault(chunked=True, drop_after=400_000))
    run()
    require_whole(out, package)
    assert statuses(site)[1][1] == 206


def test_unknown_size_is_checked_by_md5(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.always[FILE] = Fault(chunked=True)
    run()
    require_whole(out, package)
    assert run.reports[-1].total_bytes is None


def test_server_that_ignores_ranges_restarts(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(ignore_range=True))
    done = run()
    require_whole(out, package)
    assert [status for _, status in statuses(site)] == [200, 200]
    assert statuses(site)[1][0] is not None
    assert done.received_bytes > done.size_bytes
    assert any("whole file again" in line for line in run.lines)


def test_server_that_ignores_ranges_and_always_drops_ends(site: CityscapesSite, run: Run, out: Path) -> None:
    site.always[FILE] = Fault(drop_after=1_000_000, ignore_range=True)
    with pytest.raises(FoveaError, match="kept, run again"):
        run()
    require_nothing_final(out)
    assert site.count(FILE) <= 2 * IMPATIENT.attempts


@pytest.mark.parametrize("marks", ["etag", "date", "none"])
def test_changed_file_restarts(
    site: CityscapesSite, run: Run, out: Path, package: Path, other_package: Path, marks: str
) -> None:
    os.utime(other_package, (1_000_000_000, 1_000_000_000))
    if marks != "etag":
        site.etags = None
    site.send_dates = marks == "date"

    def change() -> None:
        site.replace(3, other_package)

    site.fail(FILE, Fault(drop_after=1_000_000), Fault(call=change))
    done = run()
    require_whole(out, other_package)
    assert done.md5 == hashlib.md5(other_package.read_bytes()).hexdigest()
    ranged, status = statuses(site)[1]
    assert ranged is not None and status == (206 if marks == "none" else 200)  # If-Range told the server


@pytest.mark.parametrize("ignore_condition", [False, True])
def test_changed_size_restarts(
    site: CityscapesSite, run: Run, tmp_path: Path, ignore_condition: bool
) -> None:
    longer = make_package(tmp_path, 3, 3_500_000)
    if ignore_condition:  # a server that answers 206 whatever If-Range says
        site.etags = None
        site.send_dates = False
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(call=lambda: site.replace(3, longer)))
    run()
    require_whole(run.out, longer)


def test_part_of_an_older_file_is_dropped(
    site: CityscapesSite, run: Run, out: Path, other_package: Path
) -> None:
    site.always[FILE] = Fault(drop_after=1_000_000, ignore_range=True)
    with pytest.raises(FoveaError):
        run()
    site.always.clear()
    site.replace(3, other_package)
    before = len(site.requests)
    run()
    require_whole(out, other_package)
    assert [ranged for _, path, ranged, _ in site.requests[before:] if path == FILE] == [None]


def test_range_from_another_place_restarts(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), Fault(start_shift=-5))
    run()
    require_whole(out, package)
    assert any("changed on the server" in line for line in run.lines)
    assert not any("md5" in line for line in run.lines)  # noticed before a byte of it was taken


def test_damaged_part_is_found_by_md5_and_fetched_again(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    site.fail(FILE, *[Fault(drop_after=1_000_000)] + [Fault(status=503)] * 4)
    with pytest.raises(FoveaError):
        run()
    part = out / (NAME + ".part")
    data = bytearray(part.read_bytes())
    data[5000] ^= 1
    part.write_bytes(data)
    run()
    require_whole(out, package)
    assert any("once more" in line for line in run.lines)


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


def test_page_in_place_of_the_archive(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), *[Fault(body=b"<html>maintenance</html>")] * 3)
    with pytest.raises(FoveaError, match="log in with a browser"):
        run()
    require_nothing_final(out)
    assert (out / (NAME + ".part")).read_bytes() == package.read_bytes()[
        : (out / (NAME + ".part")).stat().st_size
    ]
    done = run()
    require_whole(out, package)
    assert done.received_bytes < done.size_bytes


def test_page_that_calls_itself_a_zip(site: CityscapesSite, run: Run, out: Path) -> None:
    site.always[FILE] = Fault(body=b"<html>maintenance</html>", content_type="application/zip")
    with pytest.raises(FoveaError, match="something else in place of the archive"):
        run()
    require_nothing_final(out)


@pytest.mark.parametrize("path", ["/login", "POST /login", "/downloads/", "/md5-sum/", FILE])
def test_server_errors_are_retried_with_growing_waits(site: CityscapesSite, run: Run, path: str) -> None:
    site.fail(path, Fault(status=503), Fault(status=500), Fault(status=502))
    run()
    require_whole(run.out, site.packages[3])
    assert len(run.waits) == 3
    for failure, wait in enumerate(run.waits):
        assert 0.5 * 2**failure <= wait <= 2**failure


def test_waits_are_bounded_and_differ() -> None:
    policy = Policy(backoff_s=1, backoff_max_s=30)
    waits = [policy.delay_s(20, None) for _ in range(50)]
    assert all(15 <= wait <= 30 for wait in waits)
    assert len(set(waits)) > 40


def test_retry_after_is_heeded(site: CityscapesSite, run: Run) -> None:
    site.fail(FILE, Fault(status=429, headers={"Retry-After": "77"}))
    run()
    assert run.waits == [77.0]


def test_endless_server_errors_end_with_what_arrived_kept(
    site: CityscapesSite, run: Run, out: Path, package: Path
) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000))
    site.always[FILE] = Fault(status=503)
    with pytest.raises(FoveaError, match=r"503.*kept, run again to go on"):
        run()
    require_nothing_final(out)
    kept = (out / (NAME + ".part")).stat().st_size
    assert kept > 0
    site.always.clear()
    assert run().received_bytes == package.stat().st_size - kept
    require_whole(out, package)


def test_asking_past_the_end(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    # No size stated and the very last answer lost: the next run asks for what lies past the end.
    size = package.stat().st_size
    site.fail(FILE, Fault(chunked=True, drop_after=size))
    site.always[FILE] = Fault(status=503)
    with pytest.raises(FoveaError):
        run()
    site.always.clear()
    if (out / (NAME + ".part")).stat().st_size < size:  # a reset may cost what was under way
        (out / (NAME + ".part")).write_bytes(package.read_bytes())
    before = len(site.requests)
    run()
    require_whole(out, package)
    assert [(r, s) for _, p, r, s in site.requests[before:] if p == FILE] == [(f"bytes={size}-", 416)]


def test_complete_part_is_not_asked_for(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), *[Fault(status=503)] * 4)
    with pytest.raises(FoveaError):
        run()
    (out / (NAME + ".part")).write_bytes(package.read_bytes())
    before = site.count(FILE)
    run()
    require_whole(out, package)
    assert site.count(FILE) == before


def test_part_longer_than_the_file_restarts(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(drop_after=1_000_000), *[Fault(status=503)] * 4)
    with pytest.raises(FoveaError):
        run()
    (out / (NAME + ".part")).write_bytes(package.read_bytes() + b"more")
    run()
    require_whole(out, package)


def test_stalled_connection_is_given_up(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(stall_after=1_000_000))
    started = time.monotonic()
    run()
    require_whole(out, package)
    assert time.monotonic() - started < 10
    assert any("no answer in time" in line for line in run.lines)


def test_trickle_is_given_up(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    site.fail(FILE, Fault(piece=64, pause_s=0.02))
    run()
    require_whole(out, package)
    assert any("bytes in" in line for line in run.lines)


def test_slow_line_is_borne(site: CityscapesSite, run: Run, tmp_path: Path) -> None:
    small = make_package(tmp_path, 5, 60_000)
    site.packages[3] = small
    site.always[FILE] = Fault(piece=2000, pause_s=0.03)
    run()
    require_whole(run.out, small)
    assert site.count(FILE) == 1


def test_unreachable_site(run: Run, site: CityscapesSite, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FoveaError, match=r"failed 4 times.*refused"):
        run(base_url="http://127.0.0.1:9")
    require_nothing_final(run.out)


def test_wrong_md5_twice(site: CityscapesSite, run: Run, out: Path) -> None:
    site.md5s[3] = "0" * 32
    with pytest.raises(FoveaError, match="twice"):
        run()
    require_nothing_final(out)
    assert site.count(FILE) == 2


@pytest.mark.parametrize("path", ["/downloads/", "/md5-sum/"])
def test_nonsense_answers(site: CityscapesSite, run: Run, path: str) -> None:
    site.always[path] = Fault(body=b'{"a": 1}', content_type="application/json")
    with pytest.raises(FoveaError, match="did the site change"):
        run()


def test_unknown_package(site: CityscapesSite, run: Run) -> None:
    with pytest.raises(FoveaError, match=r"no package 'gtFine.zip'; it offers: made.zip"):
        run(package="gtFine.zip")
    with pytest.raises(FoveaError, match="no package name"):
        run(package="../made.zip")


def test_redirects_are_not_followed(site: CityscapesSite, run: Run, package: Path) -> None:
    with CityscapesSite({3: package}, password=PASSWORD) as trap:
        for status in (301, 307, 308):
            site.always["/login"] = Fault(status=status, headers={"Location": trap.url + "/login"})
            with pytest.raises(FoveaError, match="set CITYSCAPES_URL"):
                run()
        assert trap.requests == []
    assert site.count("/login", "POST") == 0


# ------------------------------------------------------------------------------------------ the disk


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount_tmpfs(options: str) -> Path:
        place = tmp_path / f"mount{len(mounted)}"
        place.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True
        ).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        mounted.append(place)
        return place

    yield mount_tmpfs
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def test_too_little_space_is_said_before_the_first_byte(
    site: CityscapesSite, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cityscapes, "free_bytes", lambda folder: 2_999_999)
    with pytest.raises(FoveaError, match="make room"):
        run()
    require_nothing_final(out)
    assert (out / (NAME + ".part")).stat().st_size == 0


def test_resuming_needs_only_the_rest(
    site: CityscapesSite, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fail(FILE, Fault(drop_after=1_500_000), *[Fault(status=503)] * 4)
    with pytest.raises(FoveaError):
        run()
    kept = (run.out / (NAME + ".part")).stat().st_size
    monkeypatch.setattr(cityscapes, "free_bytes", lambda folder: package.stat().st_size - kept)
    run()
    require_whole(run.out, package)


def test_disk_that_fills_up(site: CityscapesSite, mount: Callable[..., Path], package: Path) -> None:
    disk = mount("size=5m")
    run = Run(disk / "out", IMPATIENT)

    def fill(_: Progress) -> None:
        with (disk / "filler").open("ab", buffering=0) as file:
            while file.write(b"x" * 4096) == 4096:
                pass

    def fill_quietly(progress: Progress) -> None:
        try:
            fill(progress)
        except OSError as error:
            assert error.errno == errno.ENOSPC

    site.always[FILE] = Fault(piece=100_000, pause_s=0.002)
    with pytest.raises(FoveaError, match="disk is full"):
        run(report=fill_quietly)
    require_nothing_final(disk / "out")
    kept = (disk / "out" / (NAME + ".part")).stat().st_size
    assert 0 < kept < package.stat().st_size
    (disk / "filler").unlink()
    done = run()
    assert done.received_bytes == done.size_bytes - kept
    require_whole(disk / "out", package)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_write_errors_lose_nothing(
    site: CityscapesSite, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    written = 0

    def write(descriptor: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 1_000_000:
            raise OSError(code, os.strerror(code))
        os.write(descriptor, data)

    monkeypatch.setattr(cityscapes, "write_all", write)
    with pytest.raises(FoveaError, match="run again to go on"):
        run()
    monkeypatch.undo()
    kept = (run.out / (NAME + ".part")).stat().st_size
    done = download(
        run.out,
        package=NAME,
        base_url=site.url,
        credentials=Credentials(site.username, Secret(PASSWORD)),
        policy=IMPATIENT,
    )
    assert kept > 0 and done.received_bytes == done.size_bytes - kept
    require_whole(run.out, package)


def test_read_only_folder(site: CityscapesSite, mount: Callable[..., Path]) -> None:
    disk = mount("size=5m,ro")
    for out in (disk, disk / "deeper"):
        with pytest.raises(FoveaError, match="read-only"):
            Run(out)()
    assert site.requests == []


def test_file_in_place_of_the_folder(site: CityscapesSite, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FoveaError, match="choose another folder"):
        Run(tmp_path / "out")()
    assert (tmp_path / "out").read_text() == "mine"


def test_folder_that_disappears(site: CityscapesSite, run: Run, out: Path, package: Path) -> None:
    def remove(_: Progress) -> None:
        shutil.rmtree(out, ignore_errors=True)

    site.always[FILE] = Fault(piece=100_000, pause_s=0.005)
    with pytest.raises(FoveaError, match="disappeared"):
        run(report=remove)
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
        run(report=interrupt)
    require_nothing_final(run.out)
    assert run().received_bytes < package.stat().st_size
    require_whole(run.out, package)


def test_one_download_at_a_time(site: CityscapesSite, out: Path, package: Path) -> None:
    site.always[FILE] = Fault(piece=100_000, pause_s=0.01)
    first, second = Run(out), Run(out)
    begun = threading.Event()
    results: list[Download] = []

    def start() -> None:
        results.append(first(report=lambda _: begun.set()))

    thread = threading.Thread(target=start)
    thread.start()
    assert begun.wait(10)
    with pytest.raises(FoveaError, match="another download"):
        Run(out)(wait=False)
    results.append(second())
    thread.join()
    require_whole(out, package)
    assert site.count(FILE) == 1
    assert any("waiting" in line for line in second.lines)
    assert sorted(result.received_bytes for result in results) == [0, package.stat().st_size]


# ------------------------------------------------------------------------------------------ kill -9


def start_command(out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assets.frames.cityscapes", "--out", str(out), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_moments(site: CityscapesSite, out: Path, package: Path) -> None:
    site.rate_bytes_s = 6e6
    part = out / (NAME + ".part")
    size = package.stat().st_size
    chooser = random.Random(5)
    kept = 0
    for threshold in sorted(chooser.randrange(size) for _ in range(5)):
        process = start_command(out, "--package", NAME)
        while process.poll() is None and (not part.exists() or part.stat().st_size < threshold):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        require_nothing_final(out)
        assert part.stat().st_size >= kept
        kept = part.stat().st_size
        assert part.read_bytes() == package.read_bytes()[:kept]
    site.rate_bytes_s = None
    process = start_command(out, "--package", NAME)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.strip() == str(out / NAME)
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
    settings = {"base_url": "http://127.0.0.1:9"} if trouble == "unreachable" else {}
    with pytest.raises(FoveaError) as caught:
        run(**settings)
    texts = [everything_said(caught.value), caplog.text, *run.lines, *capfd.readouterr()]
    texts += [path.read_text("utf-8", "replace") for path in run.out.iterdir()]
    for text in texts:
        for form in (secret, "Tr0ub4dor", "Tr0ub4dor%263"):
            assert form not in text
    assert "\n" not in str(caught.value)
    if trouble == "refused":
        assert isinstance(caught.value, LoginRefused)
        assert site.count("/login", "POST") == 1  # a wrong password is not tried again


def test_wrong_password_is_one_clear_line(
    site: CityscapesSite, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "Tr0ub4dor")
    process = start_command(out)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1 and "refuses" in errors
    assert "Tr0ub4dor" not in errors


def test_secret() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    account = Credentials("ada", secret)
    for text in (str(secret), repr(secret), f"{secret}", f"{secret!r:>40}", str(account), repr([account])):
        assert "hunter2" not in text
    for leak in (pickle.dumps, copy.deepcopy, json.dumps, vars):
        with pytest.raises(TypeError):
            leak(secret)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        '{"username": "ada", "password": "p=w:1 "}',
        "username = ada\npassword = 'p=w:1 '\n",
        'export=1\nCITYSCAPES_USERNAME=ada\nCITYSCAPES_PASSWORD="p=w:1 "\n',
        "username: ada\npassword: 'p=w:1 '",
    ],
)
def test_credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("CITYSCAPES_USERNAME", raising=False)
    path = tmp_path / "account"
    path.write_text(text)
    monkeypatch.setenv("CITYSCAPES_CREDENTIALS_FILE", str(path))
    username, password = read_credentials()
    assert (username, password.reveal()) == ("ada", "p=w:1 ")


@pytest.mark.parametrize(
    "text", ["", "hunter2", '{"password": "hunter2"}', '["hunter2"]', "username=\npassword=hunter2"]
)
def test_useless_credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("CITYSCAPES_USERNAME", raising=False)
    path = tmp_path / "account"
    path.write_text(text)
    monkeypatch.setenv("CITYSCAPES_CREDENTIALS_FILE", str(path))
    with pytest.raises(FoveaError, match="CITYSCAPES_CREDENTIALS_FILE") as caught:
        read_credentials()
    assert "hunter2" not in everything_said(caught.value)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("USERNAME", "PASSWORD", "CREDENTIALS_FILE"):
        monkeypatch.delenv(f"CITYSCAPES_{name}", raising=False)
    with pytest.raises(FoveaError, match="CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD"):
        read_credentials()
    monkeypatch.setenv("CITYSCAPES_CREDENTIALS_FILE", str(tmp_path / "absent"))
    with pytest.raises(FoveaError, match="absent: No such file"):
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
def test_unfit_base_url(site: CityscapesSite, run: Run, url: str, reason: str) -> None:
    with pytest.raises(FoveaError, match=reason) as caught:
        run(base_url=url)
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------------------------------ the command


def test_command_downloads_checks_and_extracts(site: CityscapesSite, tmp_path: Path) -> None:
    made = write_archive(tmp_path / ARCHIVE_NAME, counts={"val": {"lindau": 59}})
    site.packages[3] = made
    out, tree = tmp_path / "out", tmp_path / "tree"
    process = start_command(out, "--subset", "--extract", str(tree))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.strip() == str(tree)
    assert len(list(tree.rglob("*.png"))) == 59
    assert "download:" in errors and "extract:" in errors and "val 59" in errors
    process = start_command(out)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "val/munster: all 174" in errors


def test_root_is_used_in_place(
    site: CityscapesSite, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_archive(tmp_path / "mine.zip", counts=FEW_COUNTS)
    monkeypatch.setenv("CITYSCAPES_ROOT", str(made))
    assert obtain(out) == Source("archive", made)
    assert not out.exists() and site.requests == []


def test_obtain_downloads(site: CityscapesSite, out: Path, tmp_path: Path) -> None:
    site.packages[3] = write_archive(tmp_path / ARCHIVE_NAME, counts=FEW_COUNTS)
    assert obtain(out) == Source("archive", out / ARCHIVE_NAME)
    assert obtain(out) == Source("archive", out / ARCHIVE_NAME)
    assert site.count(FILE) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("11GB", 11_000_000_000), ("6.6 GB", 6_600_000_000), ("241MB", 241_000_000), ("big", None)],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


def test_progress_lines() -> None:
    lines: list[str] = []
    report = cityscapes.log_progress(lines.append, every_s=1000)
    for done in (0, 10_000_000, 5_000_000_000, 11_000_000_000):
        report(Progress("download", done, 11_000_000_000, 5e7, (11e9 - done) / 5e7))
    assert lines == [
        "download: 0.0 of 11000.0 MB (0 %), 50.0 MB/s, 3 min 40 s left",
        "download: 11000.0 of 11000.0 MB (100 %), 50.0 MB/s, 0 s left",
    ]
