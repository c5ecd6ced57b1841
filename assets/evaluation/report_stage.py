"""`report`: a sweep as a page."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.chain import Chain
from assets.evaluation.pieces import MEASURED, PIECES, measured_needs, piece_needs, pieces_of, sweep_of
from assets.graph import Made, Need, Stage, Task, View
from assets.saliency.names import chosen_model
from assets.store import digest
from assets.story import sweep_run
from assets.world import World
from models.sweeps import Sweep

FOLDER = Path(__file__).parent
TEMPLATES = ("page.html.j2", "parts.html.j2", "report.html.j2", "report.css", "report.js")


class Report(Stage):
    """One self-contained HTML file: curves, BD-rates with intervals, pictures side by side, each with its bpp. It lies at
    FOVEA_HOME/reports/DATASET.SWEEP.html, too."""

    name, over = "report", "sweeps"
    reads = ("rd_curves", "bd_rates", "rgba_frames", *PIECES)
    group, kinds = "evaluation", frozenset({"html"})
    retried, tells = False, True

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        sweep = sweep_of(world, partition)
        tables = [Need("rd_curves", partition), Need("bd_rates", partition)]
        return [*tables, *measured_needs(sweep.dataset), *piece_needs(world, sweep)]

    def inputs(self, view: View) -> Mapping[str, Any]:
        from assets.evaluation.claims import shown

        claims = shown(view.home.config, view.partition)
        told = {"claims": digest(claims)} if claims else {}
        return {"template": digest([(FOLDER / name).read_text() for name in TEMPLATES]), **told}

    def make(self, task: Task) -> None:
        from assets.evaluation import report_tables as tables
        from assets.evaluation.claims import shown
        from assets.evaluation.notes import NOTE, sweep_note
        from assets.evaluation.rate_distortion import shared_parts, told_apart, without_parts
        from assets.evaluation.report import render_report
        from assets.evaluation.report_gallery import gallery

        sweep = sweep_of(task.world, task.partition)
        rates, curves = task.given["bd_rates"], task.given["rd_curves"].table("rd_curves.parquet")
        table = rates.table("bd_rates.parquet")
        html = render_report(
            curves=curves,
            rates=table,
            ideal=rates.table("ideal.parquet"),
            gallery=gallery(task, sweep),
            claims=shown(task.home.config, sweep.key),
            provenance=provenance(task, sweep),
        )
        table = without_parts(told_apart(table), shared_parts(curves))
        task.writer.path("report.html").write_text(html)
        task.writer.path("shown/bd_rates.md").write_text(tables.bd_markdown(table))
        shutil.copyfile(rates.folder / "shown/bd_rates.png", task.writer.path("shown/bd_rates.png"))
        found = tables.headline(tables.first_verdicts(table))
        each = [tables.answer(v) for v in tables.find_verdicts(table)]
        with sweep_run(task, sweep) as run:
            run.log_artifact(task.writer.path("report.html"), "report")
            run.set_tags({NOTE: sweep_note(task.tracker, sweep, run.run_id, found, each)})
        task.writer.meta["facts"] = {
            "headline": found,
            "answers": " ".join(tables.answers(table)),
            "bytes": len(html.encode()),
        }


def provenance(task: Task, sweep: Sweep) -> dict[str, Any]:
    """Where the report's numbers come from: commit, sweep, data version, budget, libraries, doctor."""
    from assets.versions import commit, library_versions

    table = task.given["rgba_frames"].part("measured pairs")
    found, missing = pieces_of(task.given)
    runs = (str(made.meta.get("mlflow_run_id", "")) for made in found)
    addresses = ((run_id, task.tracker.run_url(run_id)) for run_id in runs)
    budgets = [(e.preset, e.resolved()) for e in sweep.experiments if not e.untrained]
    return {
        "commit": commit(),
        "sweep": sweep.key,
        "about": sweep.about,
        "dataset": sweep.dataset,
        "pictures": len(table),
        "split": str(table.split.iloc[0]),
        "data version": str(task.unit.inputs[MEASURED]),
        "saliency model": chosen_model(task.world, sweep.dataset),
        "experiments": len(sweep.experiments),
        "missing": ", ".join(missing),
        "budget": sorted({f"{p}: {r['steps']} steps of batch {r['batch_size']}" for p, r in budgets}),
        "trunks": [t.key for t in sweep.trunks],
        "libraries": ", ".join(f"{k} {v}" for k, v in library_versions().items()),
        "unit": task.unit.digest,
        "pieces": len(found),
        # where a run id leads; "" when MLflow knows none of the runs
        "mlflow_run_url": next((url.replace(run_id, "{run_id}") for run_id, url in addresses if url), ""),
    }


def publish(chain: Chain, made: Made) -> None:
    """Copy a report to where people look for it, its links as MLflow's address is now, and bring the tables up to date."""
    from assets.evaluation.tables import write_tables

    target = chain.home.reports / f"{made.unit.partition}.html"
    source = Path(made.folder / "report.html")
    run = chain.tracker.run_url(str(made.manifest["meta"].get("mlflow_run_id", "")))
    lead(target, run.partition("/#/")[0], source)
    if chain.home.shared is not None:
        chain.home.shared.put(target, f"reports/{target.name}")
    write_tables(chain)


def lead(page: Path, mlflow: str, source: Path | None = None) -> None:
    """Write a report whose links to runs begin with an address of MLflow's pages; "" leaves them. source: default the page
    as it is."""
    from assets.home import write_whole

    html = (source or page).read_bytes()
    if mlflow:
        html = re.sub(rb'https?://[^"\s#]+(?=/#/experiments/\d+/runs/)', lambda _: mlflow.encode(), html)
    if not page.exists() or page.read_bytes() != html:
        write_whole(page, html)
