"""Cityscapes through the chain: archive or tree → manifest → resized → maps → RGBA, and whatever goes wrong on the way.

Frames are 64×32 (smaller than 512×256, so they stay as they are), in whole cities; maps are the centre prior's, without torch.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pandas as pd
import pytest
from servers.cityscapes_site import CityscapesSite
from servers.made_cityscapes import make_png, write_archive, write_tree

from assets.chain import Chain
from assets.frames.archive import ARCHIVE_NAME, Source, scan
from assets.frames.sources import archive_table
from assets.graph import Waiting
from assets.stages import STAGES as ALL
from assets.stages import open_chain
from models.errors import FoveaError

ROOT = Path(__file__).resolve().parents[3]
CITIES = {"train": {"darmstadt": 85}, "val": {"lindau": 59}, "test": {"bonn": 46}}
COUNT = 190
NAME = "cityscapes"
Settle = Callable[..., None]
STAGES = ("cityscapes_archive", "source_frames", "resized_frames", "saliency_maps", "rgba_frames")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(tmp_path_factory.mktemp("made") / ARCHIVE_NAME, counts=CITIES)


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """Writes the registry and the environment: an account of a site, or an archive or tree of one's own."""
    for name in ("ROOT", "URL", "USERNAME", "PASSWORD", "CREDENTIALS_FILE"):
        monkeypatch.delenv(f"CITYSCAPES_{name}", raising=False)
    monkeypatch.delenv("FOVEA_DATA", raising=False)
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def settle(root: Path | None = None, site: CityscapesSite | None = None, subset: bool = True) -> None:
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config/fovea.toml").write_text(
            f'[datasets.cityscapes]\nsubset = {str(subset).lower()}\nsaliency = "center_prior"\n'
        )
        if root is not None:
            monkeypatch.setenv("CITYSCAPES_ROOT", str(root))
        if site is not None:
            monkeypatch.setenv("CITYSCAPES_URL", site.url)
            monkeypatch.setenv("CITYSCAPES_USERNAME", site.username)
            monkeypatch.setenv("CITYSCAPES_PASSWORD", site.password)

    return settle


def make(*stages: str, progress: Any = None) -> dict[str, Any]:
    """Facts of each stage, made by a chain that looks at the world anew."""
    chain = open_chain(threads=2)
    found = {}
    for stage in stages:
        chain.forget()
        arguments = (progress,) if progress else ()
        made = chain.make(stage, NAME, *arguments)
        found[stage] = {**made.facts, "hit": made.hit}
    return found


def look() -> Chain:
    return open_chain(threads=2)


def checks(made: Any) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Whether each check of what was made holds, and what it says."""
    return {check.name: check.holds(made) for check in ALL[made.unit.stage].checks}


def result_digest() -> str:
    """Over every frame's name, split, pixels and packed PNG."""
    chain = look()
    found = hashlib.sha256()
    table = pd.read_parquet(chain.made("rgba_frames", NAME).folder / "rgba.parquet")
    for row in table.to_dict("records"):
        found.update(f"{row['image']} {row['split']}\n".encode())
        found.update(chain.store.shelf("resized_frames").array(row["key"]).tobytes())
        found.update(Path(str(row["path"])).read_bytes())
    return found.hexdigest()


# ---------------------------------------------------------------------------------------------- the way


def test_the_archive_in_place_goes_all_the_way_unextracted(settle: Settle, archive: Path, tmp_path: Path) -> None:
    settle(archive)
    facts = make(*STAGES)
    assert facts["cityscapes_archive"]["source"] == str(archive)
    assert facts["cityscapes_archive"]["size_bytes"] == archive.stat().st_size
    assert not facts["cityscapes_archive"]["downloaded"]
    assert "train/aachen: all 174" in facts["source_frames"].pop("official_counts")
    counts = {"frames": COUNT, "frames_train": 85, "frames_val": 59, "frames_test": 46, "quarantined": 0}
    same = {name: facts["source_frames"][name] for name in ("hit", "source_bytes")}
    assert facts["source_frames"] == counts | same
    assert facts["resized_frames"]["resized"] == facts["rgba_frames"]["packed"] == COUNT
    assert facts["resized_frames"]["bytes_out"] == COUNT * 64 * 32 * 3
    assert all(f["hit"] for f in make(*STAGES).values()) and not (tmp_path / "home/downloads").exists()
    kept = [p for p in (tmp_path / "home").rglob("*") if p.is_file() and p.suffix in (".png", ".zip")]
    assert {p.parent.parent.name for p in kept if "shown" not in p.parts} == {"rgba_frames"}
    shards = list((tmp_path / "home/data/resized_frames/shards").glob("*.json"))
    assert len(shards) == -(-COUNT // 32)

    chain = look()
    table = pd.read_parquet(chain.made("resized_frames", NAME).folder / "frames.parquet")
    with zipfile.ZipFile(archive) as members:
        for row in table.iloc[::40].to_dict("records"):
            data = members.read(f"leftImg8bit/{row['image']}.png")
            want = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            assert np.array_equal(chain.store.shelf("resized_frames").array(row["key"]), want)


def test_a_tree_gives_the_same_frames_as_the_archive(
    settle: Settle, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(archive)
    make(*STAGES)
    first = result_digest()
    tree = write_tree(tmp_path / "tree", counts=CITIES)
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "other"))
    settle(tree / "leftImg8bit")
    make(*STAGES)
    assert result_digest() == first


def test_planning_asks_nobody_and_the_run_downloads_once(settle: Settle, archive: Path, tmp_path: Path) -> None:
    with CityscapesSite({3: archive}) as site:
        settle(site=site)
        chain = look()
        assert chain.why("cityscapes_archive", NAME) == "not here yet"
        assert chain.why("source_frames", NAME) == "waits for cityscapes_archive of cityscapes"
        with pytest.raises(Waiting):
            chain.given["source_frames", NAME].part("files")
        assert site.requests == [] and not (tmp_path / "home/downloads").exists()
        lines: list[tuple[float, float, str]] = []
        facts = make(*STAGES, progress=lambda *line: lines.append(line))
        assert site.count("/file-handling/") == 1
        asked = len(site.requests)
        assert all(f["hit"] for f in make(*STAGES).values()) and len(site.requests) == asked
        shutil.rmtree(tmp_path / "home/downloads")
        assert look().why("cityscapes_archive", NAME) == "not here yet"
        again = make(*STAGES[:3])
        assert site.count("/file-handling/") == 2
        assert again["source_frames"]["hit"] and again["resized_frames"]["hit"], "its frames are found"
    got = facts["cityscapes_archive"]
    assert got["downloaded"] and got["md5"] == hashlib.md5(archive.read_bytes()).hexdigest()
    assert got["bytes_received"] == archive.stat().st_size
    assert Path(got["source"]) == tmp_path / "home/downloads" / ARCHIVE_NAME
    assert any("MB downloaded" in note for *_, note in lines)
    units = tmp_path / "home/data/cityscapes_archive"
    assert sum(p.stat().st_size for p in units.rglob("*") if p.is_file()) < 100_000


# ---------------------------------------------------------------------------------------------- counts and names


def test_what_is_missing_is_listed_and_stops_the_run(settle: Settle, archive: Path) -> None:
    settle(archive, subset=False)
    with pytest.raises(FoveaError, match=r"missing train/aachen: all 174.*subset = true"):
        make(*STAGES[:2])
    made = look().made("cityscapes_archive", NAME)
    passed, said = checks(made)["official_counts"]
    assert not passed and "train/aachen: all 174" in said["which"]
    assert checks(made)["fresh"] is None  # not asked of an archive of one's own
    assert "darmstadt | 85 | 85" in (made.folder / "shown/cities.md").read_text()


def test_a_city_in_part_is_named_and_a_stranger_stops_the_run(settle: Settle, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", counts=CITIES)
    lost = sorted((tree / "leftImg8bit/test/bonn").iterdir())[:2]
    for path in lost:
        path.unlink()
    (tree / "leftImg8bit/val/lindau/selfie.png").write_bytes(make_png(1, (64, 32)))
    settle(tree)
    make("cityscapes_archive")
    with pytest.raises(FoveaError, match="test/bonn: 2 of 46") as raised:
        make("source_frames")
    assert "selfie.png" in str(raised.value)
    (tree / "leftImg8bit/val/lindau/selfie.png").unlink()
    make("cityscapes_archive")
    make("source_frames")
    look_again = look()
    passed, said = checks(look_again.made("cityscapes_archive", NAME))["whole_cities"]
    assert not passed and "test/bonn: 2 of 46" in said["which"]
    facts = look_again.made("source_frames", NAME).facts
    assert "test/bonn: 2 of 46" in facts["official_counts"] and facts["frames_test"] == 44


def test_only_cityscapes_has_an_archive(settle: Settle, archive: Path) -> None:
    settle(archive)
    with pytest.raises(FoveaError, match="for the dataset 'cityscapes' only"):
        look().unit("cityscapes_archive", "sample")


def test_frames_that_a_zip_cannot_tell_apart_are_told_apart(tmp_path: Path) -> None:
    """A PNG's chunks hold their own CRC, which leaves a zip's CRC about 16 bits to tell PNGs of one size apart."""
    pair = [make_png(index, (64, 32)) for index in (516, 3777)]
    assert zlib.crc32(pair[0]) == zlib.crc32(pair[1]) and len(pair[0]) == len(pair[1]) and pair[0] != pair[1]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "pair.zip", "w", method) as archive:
            for number, png in enumerate(pair):
                archive.writestr(f"leftImg8bit/test/bonn/bonn_{number:06d}_000019_leftImg8bit.png", png)
        source = Source("archive", tmp_path / "pair.zip")
        table = archive_table(source, scan(source).frames)
        assert list(table.status) == ["ok", "ok"] and table.sha256.nunique() == 2 and set(table.width) == {64}


# ---------------------------------------------------------------------------------------------- faults


def damage(archive: Path, image: str) -> Callable[[], None]:
    """Flip bytes within one member's data, at unchanged size; returns what puts them back."""
    with zipfile.ZipFile(archive) as members:
        info = members.getinfo(f"leftImg8bit/{image}.png")
    place = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    before = archive.read_bytes()

    def write(data: bytes) -> None:
        archive.write_bytes(data)

    write(before[:place] + bytes(b ^ 0xFF for b in before[place : place + 8]) + before[place + 8 :])
    return lambda: write(before)


def test_a_broken_frame_is_quarantined_and_a_repaired_archive_heals(
    settle: Settle, archive: Path, tmp_path: Path
) -> None:
    mine = write_archive(tmp_path / ARCHIVE_NAME, counts=CITIES, large=1)
    image = "test/bonn/bonn_000000_000019_leftImg8bit"
    repair = damage(mine, image)
    settle(mine)
    facts = make(*STAGES)
    assert facts["resized_frames"]["quarantined"] == 1 and facts["rgba_frames"]["frames"] == COUNT - 1
    made = look().made("resized_frames", NAME)
    quarantined = made.manifest["meta"]["quarantined"]
    assert [q["image"] for q in quarantined] == [f"{image}.png"]
    held = {name: passed for name, (passed, _) in checks(made).items()}
    assert held == {"no_frame_lost": True, "sizes_hold": True, "nothing_quarantined": False}
    assert all(f["hit"] for f in make(*STAGES).values()), "the second run executes nothing"
    time.sleep(0.01)
    repair()
    facts = make(*STAGES)
    assert facts["resized_frames"]["resized"] == 1 and facts["resized_frames"]["quarantined"] == 0
    assert facts["rgba_frames"] | {"hit": 0, "packed": 1, "frames": COUNT} == facts["rgba_frames"] | {"hit": 0}


@pytest.mark.parametrize("kind", ["archive", "tree"])
def test_a_source_that_disappears_loses_nothing(settle: Settle, archive: Path, tmp_path: Path, kind: str) -> None:
    if kind == "archive":
        place = tmp_path / ARCHIVE_NAME
        shutil.copy(archive, place)
    else:
        place = write_tree(tmp_path / "tree", counts=CITIES)
    settle(place)
    make(*STAGES[:2])
    away = tmp_path / "away"

    def take_away(done: float, total: float, note: str = "") -> None:
        if done == 70:
            place.rename(away)

    with pytest.raises(FoveaError, match=r"run again"):
        make("resized_frames", progress=take_away)
    finished = len(look().store.shelf("resized_frames").index())
    assert 64 <= finished < COUNT
    assert all(not e.reason for e in look().store.shelf("resized_frames").index().values()), "no frame is blamed"
    with pytest.raises(FoveaError):
        make("resized_frames")
    away.rename(place)
    assert make("resized_frames")["resized_frames"]["resized"] == COUNT - finished


@pytest.mark.parametrize("kind", ["archive", "tree"])
def test_a_changed_frame_is_the_only_one_done_again(settle: Settle, archive: Path, tmp_path: Path, kind: str) -> None:
    image = "leftImg8bit/train/darmstadt/darmstadt_000011_000019_leftImg8bit.png"

    def put(png: bytes) -> None:
        if kind == "tree":
            (tmp_path / "tree" / image).write_bytes(png)
            return
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "new.zip", "w") as new:
            for info in old.infolist():
                new.writestr(info, png if info.filename == image else old.read(info))
        (tmp_path / "new.zip").replace(tmp_path / ARCHIVE_NAME)

    with zipfile.ZipFile(archive) as members:
        before = members.read(image)
        members.extractall(tmp_path / "tree")
    put(before)
    settle(tmp_path / ("tree" if kind == "tree" else ARCHIVE_NAME))
    make(*STAGES)
    put(make_png(999_999, (64, 32)))
    facts = make(*STAGES)
    assert facts["resized_frames"]["resized"] == 1 and facts["saliency_maps"]["predicted"] == 1
    assert facts["rgba_frames"]["packed"] == 1
    put(before)
    facts = make(*STAGES)
    assert all(facts[s]["hit"] for s in STAGES[1:]), "the earlier result is found"


def test_full_and_read_only_disks_are_named_and_what_is_finished_is_kept(
    settle: Settle, archive: Path, mount: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("size=1m")
    settle(archive)
    monkeypatch.setenv("FOVEA_HOME", str(disk / "home"))
    make(*STAGES[:2])
    with pytest.raises(FoveaError, match="no space left"):
        make("resized_frames")
    index = look().store.shelf("resized_frames").index()
    assert 0 < len(index) < COUNT
    assert not list((disk / "home").rglob("*.bin.*")), "nothing half-written stays"
    subprocess.run(["mount", "-o", "remount,size=64m,ro", str(disk)], check=True)
    with pytest.raises(FoveaError, match=r"cannot write .*FOVEA_HOME"):
        make("resized_frames")
    assert look().why("source_frames", NAME) == ""
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert make("resized_frames")["resized_frames"]["resized"] == COUNT - len(index)


# ---------------------------------------------------------------------------------------------- kill -9

DRIVER = """
import json, os, sys, time, traceback
import cv2, pandas, assets.frames.resize, assets.saliency.rgba  # what stages import is paid once, before the forks
from assets.stages import open_chain

def work(pace_s, stages):
    chain, facts = open_chain(threads=2), {}
    for stage in stages:
        def progress(done, total, note=""):
            print(stage, done, flush=True)
            time.sleep(pace_s)
        chain.forget()
        facts[stage] = chain.make(stage, "cityscapes", progress).facts
    print("facts " + json.dumps(facts), flush=True)

for line in sys.stdin:  # a child a line
    pid, code = os.fork(), 1
    if pid == 0:
        try:
            work(*json.loads(line))
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print("child", pid, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Driver:
    """A process whose children make stages, each told apart by its own number so that it can be killed."""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRIVER], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def begin(self, pace_s: float, *stages: str) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([pace_s, stages]) + "\n")
        self.process.stdin.flush()
        return int(next(self.until("child")).split()[1])

    def until(self, word: str) -> Iterator[str]:
        """Lines from the first that begins with the word on."""
        assert self.process.stdout is not None
        return itertools.dropwhile(lambda line: not line.startswith(word + " "), self.process.stdout)

    def facts(self, *stages: str) -> dict[str, Any]:
        self.begin(0, *stages)
        assert self.process.stdout is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("ended "), self.process.stdout))
        assert said[-1].startswith("facts "), "".join(said)
        return dict(json.loads(said[-1].removeprefix("facts ")))

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert next(self.until("ended")).split()[1] == str(-signal.SIGKILL)

    def kill_after(self, stage: str, lines: int, *stages: str) -> None:
        pid = self.begin(0.001, *stages)
        for _ in range(lines):
            next(self.until(stage))
        self.kill(pid)


def test_killed_ten_times_on_the_way_the_result_is_that_of_an_undisturbed_run(
    settle: Settle, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(archive)
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "calm"))
    make(*STAGES)
    calm = result_digest()

    seed = random.SystemRandom().randrange(1 << 30)
    chance = random.Random(seed)
    print("seed", seed)
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CITYSCAPES_ROOT")
    part = tmp_path / "home/downloads" / f"{ARCHIVE_NAME}.part"
    size = archive.stat().st_size
    with CityscapesSite({3: archive}) as site:
        settle(site=site)
        with Driver() as driver:
            site.rate_bytes_s = size / 4.0
            had = 0
            for share in sorted(chance.uniform(0.05, 0.6) for _ in range(3)):
                pid = driver.begin(0, "cityscapes_archive")
                deadline = time.monotonic() + 120
                while not part.exists() or part.stat().st_size < max(had, share * size):
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                driver.kill(pid)
                assert part.stat().st_size >= had, "what has arrived is kept"
                had = part.stat().st_size
                assert not (part.parent / ARCHIVE_NAME).exists()
            site.rate_bytes_s = None
            got = driver.facts("cityscapes_archive")["cityscapes_archive"]
            assert got["bytes_received"] == size - had

            finished = 0
            for lines in (chance.randint(1, 60) for _ in range(4)):
                driver.kill_after("resized_frames", lines, "source_frames", "resized_frames")
                done = len(look().store.shelf("resized_frames").index())
                assert done >= finished + lines - 32, "a kill costs at most one shard"
                finished = done
            facts = driver.facts("source_frames", "resized_frames", "saliency_maps")
            assert facts["resized_frames"]["resized"] == COUNT - finished

            packed = 0
            for lines in (chance.randint(1, 50) for _ in range(3)):
                driver.kill_after("rgba_frames", lines, "rgba_frames")
                done = len(look().store.shelf("rgba_frames").object_keys())
                assert done >= packed + lines
                packed = done
            facts = driver.facts("rgba_frames")
            assert facts["rgba_frames"]["packed"] == COUNT - packed
    assert result_digest() == calm
