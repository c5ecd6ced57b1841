"""`dagster dev`, whose webserver leads from MLFLOW_PAGE to where MLflow is: what Dagster keeps of a run links there, and holds
at any port. `python -m pipelines.dagster_pages ADDRESS`, MLflow's, then the arguments of `dagster dev`."""

import importlib
import sys
from typing import Any

from starlette.responses import RedirectResponse
from starlette.routing import Route

from pipelines.addresses import MLFLOW_PAGE


def main() -> None:
    """`dagster dev`, which starts this module where it would start `dagster_webserver`."""
    mlflow = sys.argv.pop(1)
    if "--shutdown-pipe" in sys.argv:
        return _webserver(mlflow)
    dev: Any = importlib.import_module("dagster._cli.dev")
    start = dev.open_ipc_subprocess

    def started(words: list[str], **more: Any) -> Any:
        at = words.index("-m") + 1
        ours = ["pipelines.dagster_pages", mlflow] if words[at] == "dagster_webserver" else words[at : at + 1]
        return start([*words[:at], *ours, *words[at + 1 :]], **more)

    dev.open_ipc_subprocess = started
    dev.dev_command()


def _webserver(mlflow: str) -> None:
    cli: Any = importlib.import_module("dagster_webserver.cli")
    make = cli.create_app_from_workspace_process_context

    def made(*given: Any, **more: Any) -> Any:
        pages = make(*given, **more)
        # first, since Dagster's last takes every path; a browser takes along what follows #
        pages.router.routes.insert(0, Route(MLFLOW_PAGE, lambda _: RedirectResponse(f"{mlflow}/")))
        return pages

    cli.create_app_from_workspace_process_context = made
    cli.main()


if __name__ == "__main__":
    main()
