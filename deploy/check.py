"""Checks the files of this folder without a cluster. Run by `make deploy`, with the tools that it brings along."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
LINT = "{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: disable}}"


def pods(cluster: dict) -> list[dict]:
    """The pods of a RayCluster as Kubernetes would start them, without what KubeRay adds."""
    groups = {"head": cluster["spec"]["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": group["template"]["spec"]}
        for name, group in groups.items()
    ]


def main() -> None:
    """Every check; exits with 1 at the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        inside = []
        for pod in pods(yaml.safe_load((HERE / "kubernetes" / "raycluster.yaml").read_text())):
            path = Path(folder) / f"{pod['metadata']['name']}.json"
            path.write_text(json.dumps(pod))
            inside.append(str(path))
        kubernetes = [str(HERE / "kubernetes" / n) for n in ("services.yaml", "secrets.example.yaml")]
        for command in (
            ["yamllint", "-s", "-d", LINT, str(HERE)],
            ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(HERE / "compose.yaml")],
            ["kubernetes-validate", "--strict", *kubernetes, *inside],
        ):
            done = subprocess.run(command, check=False)
            print(f"{command[0]}: {'failed' if done.returncode else 'ok'}", flush=True)
            if done.returncode:
                sys.exit(1)


if __name__ == "__main__":
    main()
