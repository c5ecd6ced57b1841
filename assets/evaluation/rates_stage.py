"""`bd_rates`: arms compared."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation.pieces import POINTS, measured_needs, measured_table, subjects_of, sweep_of
from assets.graph import Need, Stage, Task, View
from assets.world import World
from models.experiments import Experiment
from models.sweeps import Sweep

if TYPE_CHECKING:
    import pandas as pd


class BdRates(Stage):
    """BD-rates of each arm against `uniform`, and of `uniform` against the classical codecs, with paired intervals.

    A refused comparison keeps its row, with the reason. The ideal that the maps allow stands beside them, and the sweep's
    best codec gets an alias in MLflow's registry.
    """

    name = "bd_rates"
    reads = ("rd_curves", "rgba_frames", "trained_codec")
    group, kinds = "evaluation", frozenset({"pandas", "parquet"})
    retried = False

    def partitions(self, world: World) -> list[str]:
        return list(world.sweeps)

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        sweep = sweep_of(world, partition)
        codecs = [Need("trained_codec", e.key, optional=True) for e in sweep.experiments]
        return [Need("rd_curves", partition, "points"), *measured_needs(world, sweep.dataset), *codecs]

    def inputs(self, view: View) -> Mapping[str, Any]:
        sweep = sweep_of(view.world, view.partition)
        return {"sweep": view.partition, "fixations": view.world.fixations_digest(sweep.dataset)}

    def apart(self, world: World, partition: str) -> Sequence[str]:
        return ("assets.evaluation.checkpoints", "assets.evaluation.published")

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.bd_rate import bd_rates, main_metric, published_rates
        from assets.evaluation.ideal import ideal_rows
        from assets.evaluation.plots import forest_plot
        from assets.evaluation.rate_distortion import label_arm, rd_curves, records
        from assets.saliency.condition import fixation_halves

        sweep, curves = sweep_of(task.world, task.partition), task.given["rd_curves"]
        points = pd.read_parquet(curves.folder / POINTS)
        table = bd_rates(points, sweep=sweep.name)
        others = pd.read_parquet(curves.folder / "published.parquet")
        if len(others):
            compared = published_rates(rd_curves(points, resamples=2), others, sweep=sweep.name)
            table = pd.concat([table, compared], ignore_index=True)
        table.to_parquet(task.writer.path("bd_rates.parquet"), index=False)
        subjects = subjects_of(task, sweep.dataset, "none")
        measured = measured_table(task, sweep.dataset)
        dataset = task.dataset(sweep.dataset)
        ideal = ideal_rows(
            [s.saliency_map for s in subjects],
            [s.fixation_map for s in subjects],
            fixation_halves=fixation_halves(dataset, measured, [s.picture for s in subjects]),
            images=list(measured.image),
        )
        ideal.assign(dataset=sweep.dataset).to_parquet(task.writer.path("ideal.parquet"), index=False)
        picture = forest_plot(table, main_metric(table), title=task.partition)
        task.writer.path("shown/bd_rates.png").write_bytes(picture)
        told = table[table.status != "refused"]
        task.writer.meta["facts"] = {"comparisons": len(table), "refused": len(table) - len(told)}
        name = f"sweep {sweep.key}"
        tags = {**task.tags, "fovea.stage": "sweep", "fovea.sweep": sweep.key}
        run = task.tracker.run(experiment=f"fovea-{sweep.dataset}", name=name, key=name, tags=tags)
        run.log_params({"sweep": sweep.name, "dataset": sweep.dataset, "experiments": len(sweep.experiments)})
        values = {}
        for r in records(told[(told.method == "pchip") & told.bd_rate_percent.notna()]):
            arms = f"{label_arm(r['test_arm'], r['maps'])}_vs_{r['anchor_arm']}".replace("@", "_")
            values[f"bd/{arms}/{r['codec']}/{r['metric']}"] = float(r["bd_rate_percent"])
        run.log_metrics([(curves.facts["pieces"], values)])
        run.log_artifact(task.writer.path("bd_rates.parquet"))
        run.log_figure(picture, "curves/bd_rates.png")
        run.finish()
        task.writer.meta["mlflow_run_id"] = run.run_id
        task.writer.meta["mlflow_key"] = name
        ready = {made.partition for made in task.given.all("trained_codec")}
        best = best_experiment([e for e in sweep.experiments if e.key in ready], told)
        if best is not None:
            task.writer.meta["facts"] |= self._register(task, sweep, best)

    def _register(self, task: Task, sweep: Sweep, best: Experiment) -> dict[str, str]:
        """Name the sweep's best codec in MLflow's registry, with an alias."""
        trained = task.given["trained_codec", best.key]
        key = str(trained.meta.get("mlflow_key", trained.unit.digest))
        story = task.tracker.run(experiment=f"fovea-{best.dataset}", name=best.key, key=key)
        name, alias = f"fovea-{best.codec}", f"best-{sweep.dataset}-{sweep.name}"
        address = task.tracker.register_model(story, folder=trained.folder / "codec", name=name, alias=alias)
        story.finish()
        return {"best": best.key, **({"model": address} if address else {})}


def best_experiment(experiments: Sequence[Experiment], rates: "pd.DataFrame") -> Experiment | None:
    """The middle rate of the arm with the lowest BD-rate against `uniform` where people look (ew_psnr_db, else
    sw_psnr_db), its interval below 0; `uniform` when there is none. None without experiments."""
    from assets.evaluation.bd_rate import main_metric
    from assets.evaluation.rate_distortion import records

    judged = rates[(rates.metric == main_metric(rates)) & (rates.method == "pchip")]
    against = judged[judged.anchor_arm == "uniform"]
    against = against[(against.ci_high < 0) & ~against.maps.isin(["oracle", "shuffled", "center"])]
    chosen = [e for e in experiments if e.arm == "uniform"] or list(experiments)
    for row in records(against.sort_values("bd_rate_percent")):
        curve = (row["codec"], row["test_arm"], row["maps"], row["variant"])
        found = [e for e in experiments if (e.codec, e.arm, e.maps, e.variant) == curve]
        if found:
            chosen = found
            break
    return sorted(chosen, key=lambda e: e.rates)[len(chosen) // 2] if chosen else None
