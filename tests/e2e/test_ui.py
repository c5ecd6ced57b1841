"""`fovea ui` for real: Dagster's webserver and daemon, driven through GraphQL; a tick of the sensor."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import environment, fovea, inside
from servers.browser import Browser
from servers.ui import Ui

from assets.frames.sample import make_sample
from pipelines.addresses import MLFLOW_PAGE
from pipelines.ui import FIRST_PAGE

pytestmark = [pytest.mark.e2e]


class Watched(Ui):
    """Over a few drawn pictures, in a folder that is registered."""

    def __init__(self, base: Path):
        super().__init__(environment(base), base / "ui.log")
        self.base, self.pictures = base, base / "drawn/leftImg8bit"
        make_sample(base / "drawn", seed=4, counts={"train": 2, "val": 1, "test": 1}, size=(256, 128), workers=2)
        inside(self.environment, "datasets", "add", "drawn", str(self.pictures))


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("ui")) as served:
        yield served


LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
ASSET = """
query Asset($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset { assetMaterializations(limit: 5) { partition metadataEntries { label __typename
      ... on IntMetadataEntry { intValue } ... on BoolMetadataEntry { boolValue } ... on MarkdownMetadataEntry { mdStr } } } }
  }
}"""
PARTITIONS = (
    "query Rows($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionKeys } } }"
)
RUNS = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"
SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "fovea"}
DEFAULTS = """
query Form($selector: PipelineSelector!) { runConfigSchemaOrError(selector: $selector) { ... on RunConfigSchema { rootDefaultYaml } } }"""
START_SENSOR = """
mutation Start($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename ... on Sensor { id } ... on PythonError { message } } }"""
STOP_SENSOR = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"


def launch(ui: Ui, asset: str) -> str:
    return ended(ui, "__ASSET_JOB", {}, [{"path": [asset]}], {"dagster/partition": "drawn"})


def ended(ui: Ui, job: str, config: Any, assets: Any = None, tags: Any = ()) -> str:
    params = {
        "selector": {
            "repositoryName": "__repository__",
            "repositoryLocationName": "fovea",
            "pipelineName": job,
            "assetSelection": assets,
            "assetCheckSelection": None,
        },
        "runConfigData": json.dumps(config),
        "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in dict(tags).items()]},
    }
    started = ui.ask(LAUNCH, params=params)["launchRun"]
    assert started["__typename"] == "LaunchRunSuccess", started
    run_id: str = started["run"]["runId"]
    status = ui.until(
        f"the run of {job}",
        lambda: (s := ui.ask(RUN, id=run_id)["runOrError"]["status"]) in ("SUCCESS", "FAILURE", "CANCELED") and s,
    )
    assert status == "SUCCESS"
    return run_id


def rows(ui: Ui, asset: str) -> list[str]:
    found = ui.ask(PARTITIONS, key={"path": [asset]})["assetNodeOrError"]["partitionKeys"]
    return [str(key) for key in found]


def materializations(ui: Ui, asset: str) -> list[dict[str, Any]]:
    found = ui.ask(ASSET, key={"path": [asset]})["assetOrError"].get("assetMaterializations", [])
    return [{e["label"]: e for e in m["metadataEntries"]} for m in found]


def test_a_job_brings_units_up_to_date_and_runs_as_it_stands(ui: Watched) -> None:
    ended(ui, "sweep", {"ops": {"bring_up_to_date": {"config": {"sweeps": [], "units": ["source_frames drawn"]}}}})
    schema = ui.ask(DEFAULTS, selector=SELECTOR | {"pipelineName": "sweep"})["runConfigSchemaOrError"]
    assert "sample.smoke" in schema["rootDefaultYaml"]


def test_an_asset_materialised_in_the_ui_obeys_the_store(ui: Watched) -> None:
    launch(ui, "resized_frames")  # from the frames that the job above has made
    (made,) = materializations(ui, "resized_frames")
    assert made["cache_hit"]["boolValue"] is False and made["frames"]["intValue"] == 4
    assert made["resized"]["intValue"] == 4 and "data:image/png;base64," in made["sample_frames"]["mdStr"]
    launch(ui, "resized_frames")
    assert materializations(ui, "resized_frames")[0]["cache_hit"]["boolValue"] is True


def test_a_picture_copied_into_the_folder_fires_the_sensor_and_is_processed(ui: Watched) -> None:
    selector = {"repositoryName": "__repository__", "repositoryLocationName": "fovea", "sensorName": "new_pictures"}
    sensor = ui.ask(START_SENSOR, selector=selector)["startSensor"]
    assert sensor["__typename"] == "Sensor"
    new = make_sample(ui.base / "more", seed=8, counts={"train": 0, "val": 0, "test": 1}, size=(256, 128))[0]
    (ui.pictures / "test" / new.parent.name).mkdir(exist_ok=True)
    (ui.pictures / "test" / new.parent.name / "added_000000_000019_leftImg8bit.png").write_bytes(new.read_bytes())

    def packed() -> bool:
        return any(m["frames"]["intValue"] == 5 for m in materializations(ui, "rgba_frames"))

    ui.until("the sensor's run", packed)
    newest = next(m for m in materializations(ui, "resized_frames") if m["frames"]["intValue"] == 5)
    assert newest["resized"]["intValue"] == 1 and newest["reused"]["intValue"] == 4
    fired = [
        r
        for r in ui.ask(RUNS)["runsOrError"]["results"]
        if {"key": "dagster/sensor_name", "value": "new_pictures"} in r["tags"]
    ]
    assert fired
    # it would run what later tests register, too
    stopped = ui.ask(STOP_SENSOR, id=sensor["id"])["stopSensor"]["__typename"]
    assert stopped == "StopSensorMutationResult"


def test_what_is_registered_while_the_ui_runs_shows_at_once(ui: Watched) -> None:
    assert "drawn" in rows(ui, "rgba_frames") and "drawn.smoke" not in rows(ui, "report")
    assert {"sample", "drawn"} >= set(rows(ui, "source_frames"))
    folder = str(ui.pictures / "test")
    by_form = {"ops": {"register": {"config": {"name": "formed", "path": folder}}}}
    ended(ui, "register_dataset", by_form)
    assert "formed" in rows(ui, "source_frames")
    for words, there in (("add", "typed", folder, "--test", "*"), True), (("remove", "typed"), False):
        inside(ui.environment, "datasets", *words)
        assert ("typed" in rows(ui, "source_frames")) is there
    assert "formed.smoke" not in rows(ui, "report"), "a folder adds no row but its own"


def test_mlflow_answers_and_both_addresses_are_said(ui: Watched) -> None:
    def look() -> bool:
        with urllib.request.urlopen(f"{ui.mlflow}/health", timeout=20) as answer:
            return bool(answer.status == 200)

    assert ui.until("MLflow", look)
    with urllib.request.urlopen(f"{ui.dagster}{MLFLOW_PAGE}", timeout=20) as answer:
        assert answer.url == f"{ui.mlflow}/", "what Dagster keeps of a run leads there at any port"
    said = f"dagster  {ui.dagster}/", f"mlflow   {ui.mlflow}/"
    assert ui.until("both addresses", lambda: all(line in ui.log.read_text() for line in said))


def test_in_a_browser_the_graph_is_green_where_something_was_made(ui: Watched, browser: Browser) -> None:
    """What is drawn: what can be made, green where it was; the run of the command line in the timeline."""
    fovea(ui.environment, "run", "--dataset", "drawn", "--frames-only", check=True)
    browser.online(2300, 1250)

    def seen(page: str, *words: str) -> str:
        """The page's text, once it has these words."""
        browser.driver.get(ui.dagster + page)
        for _ in range(120):
            text = str(browser.run("return document.body.innerText"))
            if all(word in text for word in words):
                return text
            time.sleep(0.5)
        raise AssertionError(f"{words} are not on {page}: {text}")

    graph = seen(FIRST_PAGE["dagster"], "rgba_frames", "trained_codec", "report")
    assert "fixation_maps" not in graph and "cityscapes_archive" not in graph, "nothing for them to do"
    seen("/assets/rgba_frames?view=partitions", "drawn", "Materialized (1)")
    browser.online(1500, 900)
    text = seen("/assets/rgba_frames?view=overview", "frame_and_alpha", "data/rgba_frames/")
    assert text.index("frame_and_alpha") < text.index("frames_per_s") < text.index("cache_hit")
    table = "document.querySelector('[class*=assetEventMetadataScrollContainer]')"
    assert browser.run(f"return {table}.scrollWidth - {table}.clientWidth") <= 0, "nothing is beyond the edge"
    seen("/overview/activity/timeline", "sweep")
    seen("/locations/fovea/jobs/sweep/playground", "sample.smoke", "Launch Run")
    assert "cityscapes" not in seen("/automation", "new_pictures", "nightly")
    seen("/locations/fovea/jobs/register_dataset/playground", "Missing required config entry", "path")
