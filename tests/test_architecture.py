import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from trainings import driven

ROOT = Path(__file__).resolve().parent.parent


LOADED = """
import json, sys
import dagster
from pipelines.definitions import defs
print(json.dumps([m for m in ("torch", "mlflow", "compressai", "cv2", "scipy", "pandas", "ray", "s3fs", "dagster_ray", "dagster_postgres", "psycopg2") if m in sys.modules]))
from assets.graph import edges
from assets.home import Home
from assets.stages import STAGES
from assets.world import World
world = World(Home.from_environment())
graph = defs.resolve_asset_graph()
print(json.dumps({k.path[-1]: sorted(p.path[-1] for p in graph.get(k).parent_keys) for k in graph.get_all_asset_keys()}))
print(json.dumps({name: sorted({need.stage for need, _ in edges(stage, world)}) for name, stage in STAGES.items()}))
repository = defs.get_repository_def()  # as the code server loads it
repository.load_all_definitions()
print(json.dumps([found.name for found in (*repository.get_all_jobs(), *repository.schedule_defs, *repository.sensor_defs)]))
"""

#: a world in which every kind of need occurs
RICH = """
[datasets.sample]
saliency = "eyes.sam_lite+3folds"
[datasets.eyes]
path = "."
fixations = "eyes.csv"
"""
WHITEBOARD = {
    "cityscapes_archive": [],
    "source_frames": ["cityscapes_archive"],
    "resized_frames": ["source_frames"],
    "fixation_maps": ["resized_frames"],
    "saliency_model": ["fixation_maps"],
    "saliency_benchmark": ["fixation_maps", "saliency_model"],
    "saliency_maps": ["resized_frames", "saliency_model"],
    "rgba_frames": ["resized_frames", "saliency_maps"],
    "trunk_codec": ["rgba_frames"],
    "trained_codec": ["rgba_frames", "trunk_codec"],
    "classical_rd_points": ["rgba_frames"],
    "rd_points": ["rgba_frames", "trained_codec"],
    "external_rd_points": ["rgba_frames"],
    "rd_curves": ["classical_rd_points", "external_rd_points", "rd_points"],
    "bd_rates": ["rd_curves", "rgba_frames", "trained_codec"],
    "report": [
        "bd_rates", "classical_rd_points", "external_rd_points", "rd_curves", "rd_points", "rgba_frames",
    ],
}  # fmt: skip


def test_the_graph_is_the_one_on_the_whiteboard_and_loads_nothing_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    monkeypatch.setenv("CITYSCAPES_USERNAME", "somebody")
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "secret")
    (tmp_path / "fovea.toml").write_text(RICH)
    (tmp_path / "eyes.csv").write_text("image,subject,x,y\n")
    (tmp_path / "checkpoints/sample").mkdir(parents=True)
    (tmp_path / "checkpoints/sample/given.json").write_text('{"codec": "bmshj2018_hyperprior", "files": []}')
    heavy, drawn, needed, launched = map(json.loads, driven("-c", LOADED).splitlines()[-4:])
    assert heavy == [] and drawn == needed == WHITEBOARD and {"sweep", "nightly", "new_pictures"} <= set(launched)


def test_modules_that_are_found_by_name_are_in_the_keys_of_what_they_make() -> None:
    """Static imports are followed from a stage's own module; these are not seen there."""
    from assets.home import Home
    from assets.stages import STAGES
    from assets.versions import closure
    from assets.world import World
    from models.codecs.catalogue import code_module, objective_of

    by_name = {
        str(p.relative_to(ROOT))
        for p in [*ROOT.glob("models/**/*.py"), *ROOT.glob("assets/**/*.py")]
        if "import_module(" in p.read_text()
    }
    # judges speak in `fovea benchmark` alone, whose pages and points are no stage's
    keyed, unkeyed = {"models/codecs/catalogue.py", "assets/training/run.py"}, {"models/judges.py"}
    assert by_name <= keyed | unkeyed, "is what it imports in a key?"
    world = World(Home.from_environment())
    for experiment in {e.codec: e for e in world.experiments.values()}.values():
        for stage, partition, modules in (
            (
                "trained_codec",
                experiment.key,
                (code_module(experiment.codec), objective_of(experiment.codec).partition(":")[0]),
            ),
            ("rd_points", f"{experiment.key}@{experiment.dataset}", (code_module(experiment.codec),)),
        ):
            assert set(modules) <= set(STAGES[stage].code(world, partition)), stage
    for trunk in world.trunks.values():
        assert code_module(trunk.codec) in STAGES["trunk_codec"].code(world, trunk.key), trunk.key
    for name, stage in STAGES.items():
        reached = closure(type(stage).__module__)
        for partition in stage.partitions(world)[:1]:
            apart = set(stage.apart(world, partition))
            assert type(stage).__module__ not in apart
            assert apart <= set(reached), f"{name} sets apart what it never reaches"


#: what starts often, and what it must not have loaded; in this order, since nothing that one may load is forbidden below it
LIGHT = {
    "import pipelines.cli": "torch dagster mlflow pandas numpy ray s3fs botocore",
    "import assets.datasets": "numpy pandas cv2 dagster filelock",
    "from models.saliency.catalogue import MODELS, code_modules, model_version; model_version('sam_lite'); [code_modules(m) for m in MODELS]": "torch numpy cv2",
    "import pipelines.workers": "torch dagster mlflow",
    "from pipelines.commands.options import chain_here, sweep_of; from pipelines.plan import plan; "
    "from pipelines.commands.runs import _check_sweep; chain = chain_here(tracking=False); "
    "sweep = sweep_of(chain, 'shipped', 'sample'); _check_sweep(chain, sweep); plan(chain, chain.upstream(('report', sweep.key)))": "torch dagster mlflow",
    "import assets.evaluation.plots": "matplotlib.pyplot",
    "import assets.evaluation.report_tables, assets.evaluation.summary, assets.evaluation.report_stage": "torch",
    "import models.codecs.catalogue": "torch compressai",
    "import models.sweeps; models.sweeps.sweep('paper', 'd')": "torch",
    "import pipelines.mlflow_tracking": "torch mlflow",
}  # fmt: skip


def test_what_starts_often_imports_nothing_heavy() -> None:
    steps = [f"{code}; print([m for m in {heavy.split()} if m in sys.modules])" for code, heavy in LIGHT.items()]
    loaded = driven("-c", "\n".join(["import sys", *steps])).splitlines()
    assert dict(zip(LIGHT, loaded, strict=True)) == dict.fromkeys(LIGHT, "[]")


def commands() -> list[str]:
    """Every `fovea …` line in the code blocks of the README, docs/ and deploy/."""
    pages = [ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"\[(.*?)\]", r"\1", line) for line in lines if line.startswith("fovea ")]


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_every_command_of_the_pages_parses(line: str) -> None:
    from pipelines.cli import main

    command: click.Command = main
    context = click.Context(main)
    words = shlex.split(line)[1:]
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context("fovea", words).close()  # options such as --profile set the environment until then


def test_the_readme_shows_commands_and_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named and named <= targets and len(commands()) >= 8


def test_the_lock_names_no_index_and_pins_every_package_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "index-url" not in text
    packages = re.findall(r"^([a-z0-9][^\s=]*)==[^\n]*((?:\n    --hash=[^\n]*)+)", text, flags=re.M)
    assert len(packages) == len(re.findall(r"^[a-z0-9]", text, flags=re.M))


def test_help_lists_every_command_once_and_cuts_none() -> None:
    from click.testing import CliRunner

    from pipelines.cli import TASKS, main

    shown = CliRunner().invoke(main, ["--help"], terminal_width=200).output
    listed = [str(command.name) for commands in TASKS.values() for command in commands]
    assert sorted(listed) == sorted(main.commands) and "..." not in shown.partition("Pictures:")[2]
    assert all(f"\n  {name} " in shown for name in listed)


def test_each_environment_variable_that_the_code_reads_is_documented() -> None:
    code = "".join(
        p.read_text() for package in ("models", "assets", "pipelines") for p in (ROOT / package).rglob("*.py")
    )
    # FOVEA_SHARED is of the tests alone
    read = set(re.findall(r'"((?:FOVEA|CITYSCAPES)_[A-Z_]+)"', code)) - {"FOVEA_SHARED"}
    table = (ROOT / "docs/cluster.md").read_text().partition("## Environment variables")[2]
    assert "FOVEA_HOME" in read and read == set(re.findall(r"`((?:FOVEA|CITYSCAPES)_[A-Z_]+)`", table))


def test_each_setting_of_a_profile_is_documented_and_the_documented_tables_are_valid() -> None:
    from assets.settings import Profile
    from models.presets import Preset

    def tables(page: str, kind: str) -> list[dict[str, Any]]:
        blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.S)
        return [table for block in blocks for table in tomllib.loads(block).get(kind, {}).values()]

    shown = tables("cluster.md", "profiles")
    assert {field for table in shown for field in table} == set(Profile.model_fields) - {"name"}
    assert [Profile(**table) for table in shown]
    assert [Preset(**table) for table in tables("experiments.md", "presets")]
