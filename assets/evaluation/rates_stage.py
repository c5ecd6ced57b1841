"""`bd_rates`: arms compared."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation.pieces import (
    MEANS,
    POINTS,
    finite_means,
    headline,
    measured_needs,
    measured_table,
    subjects_of,
    sweep_of,
)
from assets.graph import Need, Stage, Task, View
from assets.story import rate_run, sweep_run, training_run
from assets.world import World
from models.experiments import Experiment
from models.sweeps import Sweep

if TYPE_CHECKING:
    import pandas as pd

#: columns of the tables that MLflow shows
RATES_SHOWN = (
    "dataset", "codec", "variant", "test_arm", "maps", "anchor_arm", "metric", "bd_rate_percent", "ci_low", "ci_high", "status",
)  # fmt: skip
CURVES_SHOWN = (
    "dataset", "codec", "variant", "arm", "maps", "rate_name", "rate", "bpp", "psnr_db", "sw_psnr_db", "ew_psnr_db", "ms_ssim", "n_images",
)  # fmt: skip


class BdRates(Stage):
    """BD-rates of each arm against `uniform`, and of predicted maps against other maps and the classical codecs, with paired
    intervals.

    A refused comparison keeps its row, with the reason. The ideal that the maps allow stands beside them, and the sweep's
    best codec gets an alias in MLflow's registry.
    """

    name, over = "bd_rates", "sweeps"
    reads = ("rd_curves", "rgba_frames", "trained_codec")
    group, kinds = "evaluation", frozenset({"pandas", "parquet"})
    retried, tells = False, True
    onlookers = ("assets.evaluation.checkpoints", "assets.evaluation.published")

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        sweep = sweep_of(world, partition)
        codecs = [Need("trained_codec", e.key, optional=True) for e in sweep.experiments]
        return [Need("rd_curves", partition, "points"), *measured_needs(sweep.dataset), *codecs]

    def inputs(self, view: View) -> Mapping[str, Any]:
        sweep = sweep_of(view.world, view.partition)
        return {"sweep": view.partition, "fixations": view.world.fixations_digest(sweep.dataset)}

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.bd_rate import bd_rates, main_metric, published_rates
        from assets.evaluation.ideal import ideal_rows
        from assets.evaluation.plots import forest_plot
        from assets.evaluation.rate_distortion import rd_curves, records
        from assets.saliency.fixations import frame_fixation_halves

        sweep, curves = sweep_of(task.world, task.partition), task.given["rd_curves"]
        points = curves.table(POINTS)
        table = bd_rates(points, sweep=sweep.name)
        others = curves.table("published.parquet")
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
            fixation_halves=frame_fixation_halves(dataset, measured, [s.picture.shape[:2] for s in subjects]),
            images=list(measured.image),
        )
        ideal.assign(dataset=sweep.dataset).to_parquet(task.writer.path("ideal.parquet"), index=False)
        picture = forest_plot(table, main_metric(table), title=task.partition)
        task.writer.path("shown/bd_rates.png").write_bytes(picture)
        told = table[table.status != "refused"]
        task.writer.meta["facts"] = {"comparisons": len(table), "refused": len(table) - len(told)}
        values = {
            metric_name(r, sweep): float(r["bd_rate_percent"])
            for r in records(told[(told.method == "pchip") & told.bd_rate_percent.notna()])
        }
        with sweep_run(task, sweep) as run:
            run.log_params({"sweep": sweep.name, "dataset": sweep.dataset})
            run.set_tags({"experiments": str(len(sweep.experiments))})
            run.log_latest(values)
            run.log_artifact(task.writer.path("bd_rates.parquet"))
            run.log_table(records(rounded(told[told.method == "pchip"], RATES_SHOWN)), "tables/bd_rates")
            means = curves.table("rd_curves.parquet")
            run.log_table(records(rounded(means, CURVES_SHOWN)), "tables/rd_curves")
            for plot in (task.writer.path("shown/bd_rates.png"), *curves.made.shown()):
                run.log_artifact(plot, "curves")
        place = sweep.experiments[0].evaluate_on[0]  # where trainings are told their figures, one for all of a sweep
        here, own = (t[t.dataset == place] for t in (points, told))
        trained = {made.partition for made in task.given.all("trained_codec")}
        ready = [e for e in sweep.experiments if e.key in trained]
        self._tell_trainings(task, ready, here, own)
        best = best_experiment(ready, own, here)
        if best is not None:
            task.writer.meta["facts"] |= self._register(task, sweep, best, here)

    def _tell_trainings(
        self, task: Task, ready: Sequence[Experiment], points: "pd.DataFrame", told: "pd.DataFrame"
    ) -> None:
        """Each training hears its figures once more, which a measurement that was found again has not told, and the BD-rate of
        its arm against `uniform` where people look. points, told: of the dataset that they are measured on
        first."""
        from assets.evaluation.bd_rate import main_metric
        from assets.evaluation.rate_distortion import records

        against = told[(told.metric == main_metric(told)) & (told.method == "pchip") & (told.anchor_arm == "uniform")]
        rates = {(r["codec"], r["test_arm"], r["maps"], r["variant"], r["preset"]): r for r in records(against)}
        known = [name for name in (*MEANS, "ew_psnr_db") if name in points]
        for experiment in ready:
            trained, own = task.given["trained_codec", experiment.key], points[points.experiment == experiment.key]
            figures = {r: headline(finite_means(own.loc[own.rate == r, known])) for r in experiment.rates}
            if len(experiment.rates) > 1:
                for rate, found in ((r, f) for r, f in figures.items() if f):
                    with rate_run(task, trained, experiment, rate) as run:
                        run.log_latest(found)
            preset = "" if experiment.as_shipped else experiment.preset
            row = rates.get((experiment.codec, experiment.arm, experiment.maps, experiment.variant, preset))
            values = figures.get(experiment.rates[0], {}) if len(experiment.rates) == 1 else {}
            if row is not None:
                values = values | {"bd_rate_percent": round(float(row["bd_rate_percent"]), 2)}
            if values:
                with training_run(task, trained, experiment) as run:
                    run.log_latest(values)

    def _register(self, task: Task, sweep: Sweep, best: Experiment, points: "pd.DataFrame") -> dict[str, str]:
        """Name the sweep's best codec in MLflow's registry, with an alias."""
        trained, name = task.given["trained_codec", best.key], f"fovea-{sweep.dataset}-{sweep.name}"
        own = points[points.experiment == best.key]
        said = ", ".join(
            f"{row.bpp:.3f} bpp at {row.psnr_db:.2f} dB PSNR"
            for _, row in own.groupby("rate")[["bpp", "psnr_db"]].mean().iterrows()
        )
        told = [f"at the rate {best.rates[0]:g}"] if len(best.rates) == 1 else ["the param `lmbda` is the rate"]
        told += [] if best.maps == "none" else ["with the column `saliency_map`: without it every place is alike"]
        about = (
            f"The best codec of sweep `{sweep.key}`: `{best.key}`. Of the codecs, each with the arm that saves most where people "
            f"look, it needs the fewest bits for the same quality there. On the test pictures of {best.evaluate_on[0]}, {', '.join(told)}: {said}. "
            f"`mlflow.pyfunc.load_model('models:/{name}@best')` loads it where Fovea is not installed."
        )
        with training_run(task, trained, best) as run:
            address = task.tracker.register_model(
                run, folder=trained.folder / "codec", name=name, alias="best", about=about
            )
        return {"best": best.key, **({"model": address} if address else {})}


def rounded(table: "pd.DataFrame", columns: Sequence[str]) -> "pd.DataFrame":
    """Some columns for a table to look at."""
    return table[[c for c in columns if c in table]].round(4)


def metric_name(row: Mapping[str, Any], sweep: Sweep) -> str:
    """Of a BD-rate, as a metric of the sweep's run: what is not the same in all of the sweep stands in it."""
    from assets.evaluation.rate_distortion import label_arm

    apart = [row["dataset"]] if row["dataset"] != sweep.dataset else []
    apart += [row["variant"]] if row["variant"] else []
    apart += [row["preset"]] if len({e.preset for e in sweep.experiments}) > 1 and row["preset"] else []
    arms = f"{label_arm(row['test_arm'], row['maps'])}_vs_{row['anchor_arm']}"
    return re.sub(r"[^\w./ :-]", "_", "/".join(["bd", arms, row["codec"], *apart, row["metric"]]))


def best_experiment(
    experiments: Sequence[Experiment], rates: "pd.DataFrame", points: "pd.DataFrame"
) -> Experiment | None:
    """Of each codec the arm with the lowest BD-rate against `uniform` where people look (ew_psnr_db, else sw_psnr_db), its
    interval below 0, or `uniform` when there is none; of these the codec that needs the fewest bits there, at its middle rate.
    None without experiments. rates, points: of one dataset."""
    from assets.evaluation.bd_rate import main_metric
    from assets.evaluation.rate_distortion import records

    metric = main_metric(rates)
    against = rates[(rates.metric == metric) & (rates.method == "pchip") & (rates.anchor_arm == "uniform")]
    against = against[(against.ci_high < 0) & ~against.maps.isin(["oracle", "shuffled", "center"])]
    measured = set(points.experiment)
    experiments = [e for e in experiments if e.key in measured and e.maps in ("none", "predicted")]
    chosen: list[Experiment] = []
    for codec in dict.fromkeys(e.codec for e in experiments):
        curves: dict[tuple[str, ...], list[Experiment]] = {}
        for e in (e for e in experiments if e.codec == codec):
            curves.setdefault((e.arm, e.maps, e.variant, "" if e.as_shipped else e.preset), []).append(e)
        gains = records(against[against.codec == codec].sort_values("bd_rate_percent"))
        order = [tuple(str(row[k]) for k in ("test_arm", "maps", "variant", "preset")) for row in gains]
        order += sorted(curves, key=lambda curve: (curve[0] != "uniform", len(curve[2])))
        found = next(curves[curve] for curve in order if curve in curves)
        before, now = (points[points.experiment.isin([e.key for e in side])] for side in (chosen, found))
        if not chosen or _needs_fewer(before, now, metric):
            chosen = found
    return sorted(chosen, key=lambda e: e.rates)[len(chosen) // 2] if chosen else None


def _needs_fewer(before: "pd.DataFrame", now: "pd.DataFrame", metric: str) -> bool:
    """Whether the second curve needs fewer bits than the first for the same quality; where they share too little to
    say, whether it is better where their rates are nearest."""
    from assets.evaluation.bd_rate import compare_curves
    from assets.evaluation.rate_distortion import curve_grid

    anchor, test = (curve_grid(side, ("bpp", metric)) for side in (before, now))
    for row in compare_curves(anchor, test, ("pchip",), resamples=2):
        if math.isfinite(rate := float(str(row["bd_rate_percent"]))):
            return rate < 0
    means = (side.groupby("rate")[["bpp", metric]].mean().to_numpy() for side in (before, now))
    pairs = itertools.product(*means)
    first, second = min(pairs, key=lambda pair: abs(math.log(pair[0][0] / pair[1][0])))
    return bool(second[1] > first[1])
