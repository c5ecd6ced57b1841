import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("package", ["models", "assets", "pipelines"])
def test_the_packages_are_those_of_this_repository(package: str) -> None:
    found = importlib.import_module(package).__file__
    assert found is not None
    assert Path(found).resolve().parent == ROOT / package


LOADED = """
import sys, time
import dagster
began = time.perf_counter()
from pipelines.definitions import defs
print(sorted(m for m in ("torch", "mlflow", "compressai", "cv2", "scipy", "pandas", "ray", "s3fs", "dagster_ray", "dagster_postgres", "psycopg2") if m in sys.modules))
print(sorted(k.path[-1] for k in defs.resolve_asset_graph().get_all_asset_keys()))
graph = defs.resolve_asset_graph()
print({k.path[-1]: sorted(p.path[-1] for p in graph.get(k).parent_keys) for k in graph.get_all_asset_keys()})
"""


def test_the_graph_is_the_one_on_the_whiteboard_and_loads_nothing_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=ROOT, check=True
    )
    heavy, _, edges = done.stdout.splitlines()[-3:]
    assert heavy == "[]"
    parents = {
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
        "rd_curves": ["classical_rd_points", "rd_points"],
        "bd_rates": ["rd_curves"],
        "report": ["bd_rates", "rd_curves"],
    }
    found: dict[str, list[str]] = eval(edges, {"__builtins__": {}})  # printed by the lines above
    assert {k: v for k, v in found.items() if k in parents} == parents


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, pipelines.cli; print([m for m in ('torch', 'dagster', 'mlflow', 'pandas', 'numpy', 'ray', 's3fs', 'botocore') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def commands() -> list[str]:
    """Every `fovea …` line in the README's code blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"\[(.*?)\]", r"\1", line) for line in lines if line.startswith("fovea ")]


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_parses(line: str) -> None:
    from pipelines.cli import main

    command: click.Command = main
    context = click.Context(main)
    words = shlex.split(line)[1:]
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context("fovea", words).close()  # options such as --profile set the environment until then


def test_the_readme_shows_commands() -> None:
    assert len(commands()) >= 8


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_no_asset_module_postpones_annotations() -> None:
    for path in [
        *ROOT.glob("assets/*/assets.py"),
        *ROOT.glob("assets/*/checks.py"),
        *ROOT.glob("pipelines/*.py"),
    ]:
        assert "from __future__ import annotations" not in path.read_text(), path


def test_the_lock_names_no_index_and_pins_every_package_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index-url" not in text
    packages = re.findall(r"^([a-z0-9][^\s=]*)==[^\n]*((?:\n    --hash=[^\n]*)+)", text, flags=re.M)
    assert len(packages) == len(re.findall(r"^[a-z0-9]", text, flags=re.M))


REPOSITORY = """
from pipelines.definitions import defs
repository = defs.get_repository_def()
repository.load_all_definitions()
print(sorted(j.name for j in repository.get_all_jobs() if not j.name.startswith("__")), [s.name for s in repository.schedule_defs], [s.name for s in repository.sensor_defs])
"""


def test_the_whole_repository_loads_as_the_code_server_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REPOSITORY],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'refresh'" in done.stdout
    assert "nightly" in done.stdout
    assert "new_pictures" in done.stdout
