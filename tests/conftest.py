"""What tests of several folders share."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
from servers.browser import Browser
from servers.s3_server import S3Server

# a database waits for the disk at each commit, longer than tests compute: where there is plenty of memory, their folders are in it
MEMORY, PLENTY = Path("/dev/shm"), 8 << 30
if MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > PLENTY:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
# as commands have it (pipelines/cli.py), before torch is there: a thread that waits for another leaves its core to the tests beside it
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# no test asserts a time
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# to look for garbage among all that the tests import, which stays, is a quarter of the time that their collection takes
gc.disable()

#: the files that take longest, longest first
LONG = ("test_incremental", "test_ui", "test_benchmark", "test_interrupt", "test_bases", "test_installed", "test_mlflow_tracking",
        "test_results", "test_conditioned", "test_fuzz", "test_doctor", "test_cityscapes_chain", "test_remote_store", "test_ranks",
        "test_bits", "test_cityscapes", "test_report", "test_loop", "test_toderici2017", "test_progressive", "test_sam_parity",
        "test_saliency_stages", "test_game", "test_study")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what libraries count at the end


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors, and a worker of tests on each core: a second thread costs more than it does."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fovea.toml, with FOVEA_HOME in `home` below it, whatever the environment says."""
    for name in ("FOVEA_PROFILE", "FOVEA_DATA", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # what a command sets in this process is taken back, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with S3Server() as server:
        server.make_bucket()
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that answers, with its credentials in the environment and short pauses between two tries."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("assets.remote.PAUSE_S", (0.05, 0.2))
    s3_server.door.open()
    return s3_server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = next((f for n in ("chromium", "chromium-browser", "google-chrome") if (f := shutil.which(n))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with its driver on this machine (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    base = tmp_path_factory.mktemp("browser")
    downloads = base / "downloads"
    downloads.mkdir()
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={base / 'profile'}"):  # fmt: skip
        options.add_argument(word)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(opened, downloads)
    finally:
        opened.quit()
