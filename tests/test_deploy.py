"""The files of deploy/ agree with each other, with the lock and with what reads them. `make deploy` checks their schemas."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets.settings import find_profile

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def load(name: str) -> list[Any]:
    return [d for d in yaml.safe_load_all((DEPLOY / name).read_text()) if d]


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), flags=re.M)
    assert found is not None, package
    return found[1]


def settings_of(kubernetes: list[Any]) -> str:
    return next(str(d["data"]["fovea.toml"]) for d in kubernetes if d["metadata"]["name"] == "fovea-settings")


def test_profiles_are_read_as_a_user_writes_them(tmp_path: Path) -> None:
    for place, text in (
        ("compose", (DEPLOY / "fovea.toml").read_text()),
        ("kubernetes", settings_of(load("kubernetes/services.yaml"))),
    ):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "fovea.toml").write_text(text)
        profile = find_profile(folder, "cluster")
        assert profile.executor == "ray" and profile.remote and profile.ray_address.startswith("http://")


def test_compose_names_services_that_there_are() -> None:
    (compose,) = load("compose.yaml")
    services = set(compose["services"])
    text = (DEPLOY / "fovea.toml").read_text() + (DEPLOY / "dagster.yaml").read_text()
    named = set(re.findall(r"(?:http://|@|hostname: )([a-z-]+)", text))
    assert named == {"object-store", "database", "mlflow", "ray-head"} and named <= services
    (workspace,) = load("workspace.yaml")
    assert workspace["load_from"][0]["grpc_server"]["host"] in services
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), port


def test_commands_of_containers_are_installed_ones() -> None:
    (compose,) = load("compose.yaml")
    ours = [s for s in compose["services"].values() if "FOVEA_IMAGE" in s["image"]]
    commands = {c.split()[0] for s in ours if isinstance(c := s.get("command"), str)}
    assert commands == {"mlflow", "ray", "dagster", "dagster-webserver", "dagster-daemon"}


def test_versions_are_those_of_the_lock() -> None:
    (cluster,) = load("kubernetes/raycluster.yaml")
    assert cluster["spec"]["rayVersion"] == locked("ray")
    for name in ("kubernetes/dagster-values.yaml", "README.md"):
        assert f"--version {locked('dagster')}" in (DEPLOY / name).read_text(), name


def test_dagster_accepts_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    settings, _ = dagster_instance_config(str(DEPLOY), config_filename="dagster.yaml")
    assert settings["storage"]["postgres"]["postgres_db"]["hostname"] == "database"


def test_every_pod_of_kubernetes_has_settings_and_secrets_that_exist() -> None:
    (cluster,) = load("kubernetes/raycluster.yaml")
    (secret,) = load("kubernetes/secrets.example.yaml")
    for group in [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]:
        spec = group["template"]["spec"]
        assert {"configMap": {"name": "fovea-settings"}, "name": "settings"} in spec["volumes"]
        for container in spec["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    (values,) = load("kubernetes/dagster-values.yaml")
    assert values["global"]["postgresqlSecretName"] == secret["metadata"]["name"]
    assert "postgresql-password" in secret["stringData"]


def test_no_file_holds_a_secret() -> None:
    for path in DEPLOY.rglob("*.example*"):
        for line in path.read_text().splitlines():
            if re.match(r"\s*[A-Za-z_-]*(?i:password|secret_access_key)\s*[:=]", line):
                assert re.search(r"[:=]\s*choose-", line), (path.name, line)
    (compose,) = load("compose.yaml")
    for name in ("FOVEA_DATABASE_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        assert compose["x-fovea"]["environment"][name].startswith("${" + name + ":?")
