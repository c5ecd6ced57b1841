"""A walk through what `fovea ui` shows after the demo, in a browser. FOVEA_WALK names a folder whose home holds a finished
demo (else one is made there or in a temporary folder); FOVEA_PICTURES one that gets a screenshot of each step."""

import json
import os
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from commands import environment, fovea
from servers.ui import Ui

from assets.frames.sample import make_sample
from pipelines.ui import FIRST_PAGE

if TYPE_CHECKING:
    from servers.browser import Browser

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.browser, pytest.mark.timeout(3600)]
PATIENCE_S = 300.0
KEY = "l0.0045-bls2017-sample-smoke-from=shipped-bls2017-saliency_gain"
GRAPH = "{ assetNodes { assetKey { path } partitionStats { numMaterialized numPartitions numFailed } } }"
#: the boxes of the graph, each with the word that colours it
BOXES = (
    "[...document.querySelectorAll('[class*=minimalAssetNodeBox]')].map(box => [box.textContent,"
    " box.getAttribute('style').match(/--minimal-bg: var\\(--color-background-(\\w+)/)?.[1]])"
)


class Walk:
    """A browser on the pages of a Ui."""

    def __init__(self, browser: "Browser", ui: Ui, pictures: str):
        self.browser, self.ui, self.pictures = browser, ui, Path(pictures) if pictures else None

    def until(self, script: str, *words: object) -> Any:
        """What a script returns, once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := self.browser.run(script, *words):
                return found
            time.sleep(0.5)
        page = self.browser.run("return location.href + '\\n' + document.body.innerText")
        raise AssertionError(f"never true: {script} {words} on {page}")

    def see(self, *words: str, address: str = "") -> None:
        """The words stand on the page (at an address)."""
        if address:
            self.browser.driver.get("about:blank")  # an address that differs behind # would not load
            self.browser.driver.get(address)
        self.until("return [...arguments].every(word => document.body?.innerText.includes(word))", *words)

    def mlflow(self, address: str, *words: str) -> None:
        """A page of MLflow with the words, without the chat that it opens for those who come first."""
        self.browser.driver.get(f"{self.ui.mlflow}/health")
        for name, value in (("fab.autoOpenedOnFirstLoad_v1", "true"), ("panelOpen_v1", "false")):
            self.browser.run("localStorage.setItem(...arguments)", f"mlflow.assistant.{name}", value)
        self.see(*words, address=address if "://" in address else self.ui.mlflow + address)

    def click(self, path: str, *, patience_s: float = PATIENCE_S) -> None:
        """The first element at an XPath, once it can be clicked."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support import expected_conditions
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser.driver, patience_s).until(expected_conditions.element_to_be_clickable((By.XPATH, path))).click()  # fmt: skip

    def picture(self, name: str, settle_s: float = 3.0) -> None:
        """The page as it is, where pictures are kept."""
        if self.pictures:
            time.sleep(settle_s)  # charts and pages move into place
            self.pictures.mkdir(parents=True, exist_ok=True)
            self.browser.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def launch(self, job: str, config: str = "") -> None:
        """A job from its form, until its run has ended well."""
        self.see("Launch Run", address=f"{self.ui.dagster}/locations/fovea/jobs/{job}/playground")
        self.until("return document.querySelector('.CodeMirror')?.CodeMirror.getValue()")
        if config:
            self.browser.run("document.querySelector('.CodeMirror').CodeMirror.setValue(arguments[0])", config)
        self.picture(f"form_{job}")
        self.click("//button[.//text()='Launch Run' and not(@disabled)]")
        self.see("RUN_SUCCESS")
        self.picture(f"run_{job}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished demo."""
    named = os.environ.get("FOVEA_WALK")
    folder = Path(named).resolve() if named else tmp_path_factory.mktemp("walk")
    fovea(environment(folder), "run", "--dataset", "sample", "--sweep", "smoke", check=True)
    return folder


@pytest.fixture(scope="module")
def ui(base: Path) -> Iterator[Ui]:
    # not the ports that the home had when it was made: links that are stored follow
    with Ui(environment(base), base / "ui.log") as served:
        yield served


@pytest.fixture
def walk(ui: Ui, browser: "Browser") -> Walk:
    browser.online(1500, 900)
    return Walk(browser, ui, os.environ.get("FOVEA_PICTURES", ""))


def test_the_graph_is_green_where_something_was_made(walk: Walk) -> None:
    said = fovea(walk.ui.environment, "status", "--dataset", "sample", "--sweep", "smoke", "--all", check=True).stdout
    made = Counter(line.split()[1] for line in said.splitlines() if line.startswith("fresh "))
    nodes = {n["assetKey"]["path"][0]: n["partitionStats"] for n in walk.ui.ask(GRAPH)["assetNodes"]}
    assert {name: stats["numMaterialized"] for name, stats in nodes.items() if stats["numMaterialized"]} == dict(made)
    walk.see("Hide navigation", address=walk.ui.dagster)
    walk.click("//*[text()='Hide navigation']")
    walk.see("rgba_frames", "report", address=walk.ui.dagster + FIRST_PAGE["dagster"])
    settled = "return found.length && found.every(([, colour]) => colour === 'green') && found.map(([name]) => name)"
    drawn = walk.until(f"const found = {BOXES}; {settled}")
    walk.picture("dagster")
    assert {name for name in drawn if "…" not in name} <= set(made) and len(drawn) == len(made)


def test_a_dataset_registered_from_its_form_is_there(walk: Walk, base: Path) -> None:
    fovea(walk.ui.environment, "datasets", "remove", "walked")
    make_sample(base / "walked", seed=5, counts={"train": 1, "val": 1, "test": 1}, size=(256, 128), workers=2)
    folder = str(base / "walked/leftImg8bit")
    try:
        walk.launch("register_dataset", f"ops:\n  register:\n    config:\n      name: walked\n      path: {folder}\n")
        walk.see("walked", "sample", address=f"{walk.ui.dagster}/assets/source_frames?view=partitions")
        walk.picture("registered")
    finally:
        fovea(walk.ui.environment, "datasets", "remove", "walked", check=True)


def test_a_sweep_is_launched_from_its_form(walk: Walk) -> None:
    walk.launch("sweep")


def test_from_a_codecs_page_to_its_run_and_back(walk: Walk) -> None:
    page = f"{walk.ui.dagster}/assets/trained_codec?view=partitions"
    walk.see("Materialized", address=page)
    walk.click(f"//*[@title='{KEY}']")
    walk.see("test_bpp", "[Show Markdown]")
    link = walk.until("return document.querySelector('a[href*=workflowType]')?.href")
    walk.picture("trained_codec")
    walk.click("//tr[td[.='training']]//*[not(*) and contains(text(), '[Show Markdown]')]")
    walk.until("return [...document.images].some(image => image.naturalWidth > 200)")
    walk.picture("plot")
    walk.mlflow(link, "0.0045 gain bls2017", "bpp", "on the test pictures", "in Dagster the asset")
    walk.picture("mlflow_run")
    back = walk.until("return document.querySelector('a[href*=\"/assets/trained_codec?\"]')?.href")
    walk.see(KEY, "test_bpp", address=back)


def trainings(ui: Ui) -> tuple[str, dict[str, str]]:
    """Experiment and runs of the demo's trainings, by name."""

    def ask(path: str, **body: Any) -> Any:
        words = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{ui.mlflow}/api/2.0/mlflow/{path}", words, {"Content-Type": "application/json"})  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    experiment = ask("experiments/get-by-name?experiment_name=fovea-sample")["experiment"]["experiment_id"]
    rows = "tags.`fovea.stage` = 'trained_codec'"
    found = ask("runs/search", experiment_ids=[experiment], filter=rows, max_results=100)["runs"]
    return experiment, {run["info"]["run_name"]: run["info"]["run_id"] for run in found}


def test_two_runs_are_compared(walk: Walk) -> None:
    experiment, runs = trainings(walk.ui)
    pair = {name: run for name, run in runs.items() if re.match(r"0.0045 (uniform|gain) ", name)}
    assert len(pair) == 2
    table = f"/#/experiments/{experiment}/runs?viewStateShareKey=sample.smoke&workflowType=machine_learning"
    walk.mlflow(f"{table}&compareRunsMode=TABLE", *pair)
    walk.picture("mlflow_table")
    walk.mlflow(f"{table}&compareRunsMode=CHART", *pair, "bpp vs. psnr_db")
    walk.picture("mlflow")
    ids = json.dumps(list(pair.values()))
    walk.mlflow(
        f'/#/compare-runs?runs={ids}&experiments=["{experiment}"]&workflowType=machine_learning', *pair, "sw_psnr_db"
    )
    walk.picture("mlflow_compare")


@pytest.mark.parametrize("width", [1400, 390])
def test_the_report_needs_no_sideways_scroll(walk: Walk, base: Path, width: int) -> None:
    walk.browser.open(base / "home/reports/sample.smoke.html", width, 1640 if width > 1000 else 844, touch=width < 1000)
    # a phone's innerWidth grows with what is too wide
    assert walk.browser.run("return document.documentElement.scrollWidth <= Math.min(innerWidth, arguments[0])", width)
    walk.picture("report" if width > 1000 else "report_phone", 1.5)
    walk.browser.run("document.querySelector('#gallery').scrollIntoView()")
    walk.picture("report_pictures" if width > 1000 else "report_phone_pictures", 1.5)
