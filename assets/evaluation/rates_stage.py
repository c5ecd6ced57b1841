"""`bd_rates`: arms compared."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.evaluation import pieces
from assets.graph import Need, Stage, Task, View
from assets.story import rate_run, record_of, sweep_run, training_run
from assets.world import World
from models.experiments import Experiment
from models.sweeps import Sweep
from models.tracking import belongs

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
        sweep = pieces.sweep_of(world, partition)
        codecs = [Need("trained_codec", e.key, optional=True) for e in sweep.experiments]
        return [Need("rd_curves", partition, "points"), *pieces.measured_needs(sweep.dataset), *codecs]

    def inputs(self, view: View) -> Mapping[str, Any]:
        sweep = pieces.sweep_of(view.world, view.partition)
        return {"sweep": view.partition, "fixations": view.world.fixations_digest(sweep.dataset)}

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.bd_rate import BASELINE, bd_rates, main_metric, published_rates
        from assets.evaluation.ideal import ideal_rows
        from assets.evaluation.plots import forest_plot
        from assets.evaluation.rate_distortion import rd_curves, records
        from assets.saliency.fixations import frame_fixation_halves

        sweep, curves = pieces.sweep_of(task.world, task.partition), task.given["rd_curves"]
        points = curves.table(pieces.POINTS)
        table = bd_rates(points, sweep=sweep.name)
        others = curves.table("published.parquet")
        if len(others):
            compared = published_rates(rd_curves(points, resamples=2), others, sweep=sweep.name)
            table = pd.concat([table, compared], ignore_index=True)
        table.to_parquet(task.writer.path("bd_rates.parquet"), index=False)
        subjects = pieces.subjects_of(task, sweep.dataset, "none")
        measured = pieces.measured_table(task, sweep.dataset)
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
        # those against conventional codecs stand in the table
        among = told[told.anchor_arm.isin({BASELINE, *(e.label for e in sweep.experiments)})]
        values = {
            metric_name(r, sweep): round(float(r["bd_rate_percent"]), 2)
            for r in records(among[(among.method == "pchip") & among.bd_rate_percent.notna()])
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
        self._tell_trainings(task, sweep, ready, here, own)
        best, known = best_experiment(ready, own, here)
        if best is not None:
            why = why_best(best, known, ready, own, here)
            task.writer.meta["facts"] |= self._register(task, sweep, best, why, here)

    def _tell_trainings(
        self, task: Task, sweep: Sweep, ready: Sequence[Experiment], points: "pd.DataFrame", told: "pd.DataFrame"
    ) -> None:
        """Each training hears that it belongs to the sweep, whichever made it; its figures once more, which a measurement that was
        found again has not told; the BD-rate of its arm against `uniform` where people look; its curve's colour; and which
        settings of others it makes no use of: a chart would make up a number. points, told: of the dataset that they
        are measured on first."""
        from assets.evaluation.bd_rate import main_metric
        from assets.evaluation.notes import NOTE, training_note
        from assets.evaluation.palette import plain_colour
        from assets.evaluation.rate_distortion import records

        against = told[(told.metric == main_metric(told)) & (told.method == "pchip") & (told.anchor_arm == "uniform")]
        rates = {(r["codec"], r["test_arm"], r["maps"], r["variant"], r["preset"]): r for r in records(against)}
        known = [name for name in (*pieces.MEANS, "ew_psnr_db") if name in points]
        settings = {name for e in ready for name in record_of(e, task.world)}
        for experiment in ready:
            colour = plain_colour(experiment.codec, experiment.arm, experiment.maps, experiment.variant)
            tags = {belongs(sweep.key): "yes", "mlflow.runColor": colour}
            unused = dict.fromkeys(sorted(settings - record_of(experiment, task.world).keys()), "unused")
            trained, own = task.given["trained_codec", experiment.key], points[points.experiment == experiment.key]
            figures = {r: pieces.headline(pieces.finite_means(own.loc[own.rate == r, known])) for r in experiment.rates}
            preset = "" if experiment.as_shipped else experiment.preset
            row = rates.get((experiment.codec, experiment.arm, experiment.maps, experiment.variant, preset))
            against_uniform = {} if row is None else {"bd_rate_percent": round(float(row["bd_rate_percent"]), 2)}
            whole = [(None, [found for found in figures.values() if found])] if len(figures) > 1 else []
            for rate, means in (*((r, [found] if found else []) for r, found in figures.items()), *whole):
                one, values = (task, trained, experiment), {} if rate is None or not means else means[0]
                with training_run(*one) if rate is None or not whole else rate_run(*one, rate) as run:
                    run.log_params(unused)
                    run.set_tags(tags | {NOTE: training_note(task.tracker, sweep, experiment, means, row)})
                    run.log_latest(values | against_uniform)

    def _register(self, task: Task, sweep: Sweep, best: Experiment, why: str, points: "pd.DataFrame") -> dict[str, str]:
        """Name the sweep's best codec in MLflow's registry, with an alias. why: as `why_best` gives it."""
        from assets.evaluation.notes import model_note

        trained, name = task.given["trained_codec", best.key], f"fovea-{sweep.dataset}-{sweep.name}"
        about = model_note(task.tracker, sweep, name, best, why, points[points.experiment == best.key])
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
) -> tuple[Experiment | None, bool]:
    """Of each codec the arm with the lowest BD-rate against `uniform` where people look (ew_psnr_db, else sw_psnr_db), its
    interval below 0, or `uniform` when there is none; of these the codec that needs the fewest bits there, at its middle rate.
    None without experiments. With it whether all codecs could be compared at equal quality: where they share too little of it,
    the one that is better at the nearest rates is taken. rates, points: of one dataset."""
    from assets.evaluation.bd_rate import main_metric
    from assets.evaluation.rate_distortion import records

    metric, against = main_metric(rates), _against_uniform(rates)
    against = against[against.ci_high < 0]
    experiments = _usable(experiments, points)
    chosen, compared = list[Experiment](), True
    for codec in dict.fromkeys(e.codec for e in experiments):
        curves: dict[tuple[str, ...], list[Experiment]] = {}
        for e in (e for e in experiments if e.codec == codec):
            curves.setdefault((e.arm, e.maps, e.variant, "" if e.as_shipped else e.preset), []).append(e)
        gains = records(against[against.codec == codec].sort_values("bd_rate_percent"))
        order = [tuple(str(row[k]) for k in ("test_arm", "maps", "variant", "preset")) for row in gains]
        order += sorted(curves, key=lambda curve: (curve[0] != "uniform", len(curve[2])))
        found = next(curves[curve] for curve in order if curve in curves)
        before, now = (points[points.experiment.isin([e.key for e in side])] for side in (chosen, found))
        fewer, known = _needs_fewer(before, now, metric) if chosen else (True, True)
        chosen, compared = found if fewer else chosen, compared and known
    return (sorted(chosen, key=lambda e: e.rates)[len(chosen) // 2] if chosen else None), compared


def _against_uniform(rates: "pd.DataFrame") -> "pd.DataFrame":
    """Of arms that are no control, by what comparisons are first judged by."""
    from assets.evaluation.bd_rate import main_metric

    known = (rates.metric == main_metric(rates)) & (rates.method == "pchip") & (rates.anchor_arm == "uniform")
    return rates[known & ~rates.maps.isin(["oracle", "shuffled", "center"])]


def _usable(experiments: Sequence[Experiment], points: "pd.DataFrame") -> list[Experiment]:
    """Those that were measured, without controls."""
    measured = set(points.experiment)
    return [e for e in experiments if e.key in measured and e.maps in ("none", "predicted")]


def why_best(
    best: Experiment, compared: bool, experiments: Sequence[Experiment], rates: "pd.DataFrame", points: "pd.DataFrame"
) -> str:
    """What `best_experiment` chose by, in sentences; "" where it had no choice. best, compared: what it gave. experiments, rates,
    points: as it takes them."""
    from assets.evaluation.bd_rate import main_metric
    from assets.evaluation.numerals import counted, with_interval
    from assets.evaluation.rate_distortion import MIN_IMAGES, records

    look = "look" if main_metric(rates) == "ew_psnr_db" else "are predicted to look"
    usable, told = _usable(experiments, points), _against_uniform(rates)
    of_codec = told[told.codec == best.codec]
    own = of_codec[(of_codec.test_arm == best.arm) & (of_codec.variant == best.variant) & (of_codec.ci_high < 0)]
    said, pictures = list[str](), int(points.image.nunique())
    if len(own):
        row = records(own.sort_values("bd_rate_percent"))[0]
        alike = {k: row[k] for k in ("codec", "test_arm", "variant", "preset", "maps", "method", "anchor_arm")}
        whole = [r for r in records(rates[rates.metric == "psnr_db"]) if alike.items() <= r.items()]
        plain = f", {with_interval(whole[0])} at equal plain PSNR" if whole else ""
        said.append(
            f"Its arm `{best.label}` saves most where people {look}: {with_interval(row)} bits against `uniform`{plain}."
        )
    elif best.arm == "uniform" and any(e.codec == best.codec and e.arm != "uniform" for e in usable):
        few = f"{counted(pictures)} {'is' if pictures == 1 else 'are'} too few for an interval ({MIN_IMAGES} at least)"
        none = "no arm's interval lies below 0" if len(of_codec) else "their curves cannot be compared"
        said.append(
            f"It is `uniform`, since no map is known to save bits where people {look}: {few if pictures < MIN_IMAGES else none}."
        )
    if (codecs := len({e.codec for e in usable})) > 1:
        there = "there" if said else f"where people {look}"
        fewest = f"it needs the fewest bits for the same quality {there}"
        better = f"it shows the best quality {there} at the nearest rates; at equal quality they cannot all be compared"
        said.append(f"Of {codecs} codecs {fewest if compared else better}.")
    return " ".join(said)


def _needs_fewer(before: "pd.DataFrame", now: "pd.DataFrame", metric: str) -> tuple[bool, bool]:
    """Whether the second curve needs fewer bits than the first for the same quality, and whether that is known: where they
    share too little to say, whether it is better where their rates are nearest."""
    from assets.evaluation.bd_rate import compare_curves
    from assets.evaluation.rate_distortion import curve_grid

    anchor, test = (curve_grid(side, ("bpp", metric)) for side in (before, now))
    for row in compare_curves(anchor, test, ("pchip",), resamples=2):
        if math.isfinite(rate := float(str(row["bd_rate_percent"]))):
            return rate < 0, True
    means = (side.groupby("rate")[["bpp", metric]].mean().to_numpy() for side in (before, now))
    pairs = itertools.product(*means)
    first, second = min(pairs, key=lambda pair: abs(math.log(pair[0][0] / pair[1][0])))
    return bool(second[1] > first[1]), False
