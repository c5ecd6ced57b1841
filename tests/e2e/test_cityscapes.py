"""`fovea run --frames-only --dataset cityscapes` against a site on loopback: one command from the account to packed frames."""

import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from commands import environment, fovea, inside, inside_of, python
from servers.cityscapes_site import CityscapesSite
from servers.made_cityscapes import write_archive

from assets.frames.archive import ARCHIVE_NAME
from assets.frames.decode import read_picture
from assets.frames.resize import resize
from assets.home import Home
from assets.saliency.rgba import unpack
from pipelines.instance import prepare_instance
from pipelines.schedules import cityscapes_changes, fetch_change

pytestmark = [pytest.mark.e2e]
CITIES = {"train": {"darmstadt": 85}, "val": {"lindau": 59}, "test": {"bonn": 46}}
PASSWORD = "Tr0ub4dor-and-3-horses"
RUN = ("run", "--frames-only", "--dataset", "cityscapes")
WRONG = "Tr0ub4dor-and-2-horses"


class Place:
    """A home and an account."""

    def __init__(self, base: Path, site: CityscapesSite, subset: bool):
        self.home, self.config, self.site = base / "home", base / "config", site
        self.config.mkdir(parents=True)
        (self.config / "fovea.toml").write_text(
            f'[datasets.cityscapes]\nsubset = {str(subset).lower()}\nsaliency = "center_prior"\n'
        )
        self.said = ""

    def environment(self, password: str = PASSWORD) -> dict[str, str]:
        account = {"CITYSCAPES_USERNAME": self.site.username, "CITYSCAPES_PASSWORD": password}
        return environment(self.home.parent, CITYSCAPES_URL=self.site.url, **account)

    def fovea(self, *words: str, password: str = PASSWORD) -> "subprocess.CompletedProcess[str]":
        done = fovea(self.environment(password), *words)
        self.said += done.stdout + done.stderr
        return done

    def run(self, password: str = PASSWORD) -> "subprocess.CompletedProcess[str]":
        return self.fovea(*RUN, password=password)

    def frames(self) -> pd.DataFrame:
        tables = (self.home / "data/rgba_frames").glob("??/*/rgba.parquet")
        return pd.read_parquet(max(tables, key=lambda path: path.stat().st_mtime_ns))

    def holding(self, *secrets: str) -> list[str]:
        """Files of the home, SQLite's included, that hold one of these texts in UTF-8 or UTF-16."""
        wanted = [s.encode(code) for s in secrets for code in ("utf-8", "utf-16-le")]
        files = [p for p in self.home.rglob("*") if p.is_file()]
        assert any(p.suffix == ".db" for p in files), "Dagster's events are among them"
        return [str(p) for p in files if any(w in p.read_bytes() for w in wanted)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("cityscapes")
    with CityscapesSite({3: write_archive(base / ARCHIVE_NAME, counts=CITIES)}, password=PASSWORD) as site:
        yield Place(base, site, subset=True)


def test_from_a_wrong_password_to_packed_frames_and_no_trace_of_either(place: Place) -> None:
    refused = place.run(password=WRONG)
    assert refused.returncode == 1
    failures = [line for line in refused.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failures) == 1 and "refuses the user name or password" in failures[0]
    assert "Traceback" not in refused.stderr and not (place.home / "downloads" / ARCHIVE_NAME).exists()

    done = place.run()
    assert done.returncode == 0, done.stderr
    assert "5 made" in done.stdout and "[1/5] cityscapes_archive cityscapes (not here yet)" in done.stderr
    table = place.frames()
    assert dict(table.split.value_counts()) == {"train": 85, "val": 59, "test": 46}

    asked = len(place.site.requests)
    assert "nothing to run" in inside(place.environment(), *RUN).stdout and len(place.site.requests) == asked

    assert place.holding(PASSWORD, WRONG) == [] and PASSWORD not in place.said and WRONG not in place.said
    assert place.holding("refuses the user name or password"), "the search finds what is there"
    assert place.holding("MB downloaded"), "Dagster's log shows the download"


def test_the_weekly_question_and_what_a_changed_package_starts(place: Place, tmp_path: Path) -> None:
    def tick(**changes: str) -> str:
        with inside_of(place.environment() | changes):
            asked = cityscapes_changes(dg.build_schedule_context())
        return f"{type(asked).__name__} {getattr(asked, 'skip_message', None) or asked.run_key}"

    if not (place.home / "downloads" / ARCHIVE_NAME).exists():
        assert place.run().returncode == 0
    assert tick() == "SkipReason the site offers the archive that is here"
    for change, said in (
        ({"CITYSCAPES_PASSWORD": ""}, "no Cityscapes account"),
        ({"CITYSCAPES_ROOT": str(place.site.packages[3])}, "is yours"),
        ({"FOVEA_HOME": str(tmp_path / "elsewhere")}, "not downloaded"),
        ({"CITYSCAPES_PASSWORD": WRONG}, "refuses the user name or password"),
    ):
        assert re.match(f"SkipReason .*{said}", tick(**change))

    known = "from pipelines.definitions import defs; print(defs.resolve_job_def('fetch_change').name)"
    assert python(place.environment(), "-c", known).stdout == "fetch_change\n"
    old = place.frames()
    place.site.replace(3, write_archive(tmp_path / ARCHIVE_NAME, counts=CITIES, seed=5))
    assert tick() == f"RunRequest cityscapes-{place.site.md5(3)}"
    with inside_of(place.environment()):
        prepare_instance(Home.from_environment())
        with dg.DagsterInstance.get() as instance:
            assert fetch_change.execute_in_process(instance=instance).success
    new = place.frames()
    assert list(new.image) == list(old.image) and not set(new.rgba_key) & set(old.rgba_key)
    assert tick() == "SkipReason the site offers the archive that is here" and place.holding(PASSWORD, WRONG) == []


@pytest.mark.slow
def test_the_full_counts_with_some_frames_of_true_size(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / ARCHIVE_NAME, large=2)
    with CityscapesSite({3: archive}, password=PASSWORD) as site:
        place = Place(tmp_path, site, subset=False)
        done = place.run()
    assert done.returncode == 0, done.stderr
    table = place.frames()
    assert dict(table.split.value_counts()) == {"train": 2975, "val": 500, "test": 1525}
    large = table[table.width == 2048]
    assert len(large) == 6
    with zipfile.ZipFile(archive) as members:
        for row in large.to_dict("records"):
            frame, saliency_map = unpack(Path(str(row["path"])).read_bytes())
            want = resize(read_picture(members.read(f"leftImg8bit/{row['image']}.png")), (512, 256))
            assert frame.shape == (256, 512, 3) and np.array_equal(frame, want) and saliency_map.max() == 255
