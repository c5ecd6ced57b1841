"""`classical_rd_points`, `rd_points`, `rd_curves`, `bd_rates`, `report`: from codecs to evidence."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from assets.chain import Chain, Made, Progress, Unit, Waiting
from assets.evaluation.pieces import (
    MAPS_CODE,
    POINTS,
    check_estimate,
    data_digest,
    finish_points,
    gallery_images,
    kept_name,
    measured_split,
    measured_table,
    pieces_of,
    subjects_of,
    sweep_points,
)
from assets.evaluation.published import PublishedCurve, published_curves
from assets.evaluation.tables import write_tables
from assets.evaluation.target_rate import rate_inputs, searched_rates
from assets.saliency.condition import fixation_halves
from assets.saliency.names import chosen_model
from assets.store import UnitWriter, digest
from assets.versions import code_version
from models.errors import FoveaError
from models.experiments import DEFAULT_SALIENCY, Experiment
from models.sweeps import Sweep

FOLDER = Path(__file__).parent


class ClassicalRdPoints:
    """JPEG, WebP, AVIF, JPEG XL and a thumbnail on the measured split; a picture that was measured before is not measured again."""

    name = "classical_rd_points"

    def unit(self, chain: Chain, partition: str) -> Unit:
        inputs = {
            "dataset": partition,
            "data": data_digest(chain, partition),
            "codecs": list(chain.dataset(partition).classical),
            "code": code_version("assets.evaluation.measure_classical", *MAPS_CODE),
        }
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.measure_classical import measure_classical
        from assets.frames.encode import encode_png

        codecs = chain.dataset(unit.partition).classical
        subjects = subjects_of(chain, unit.partition, "none", DEFAULT_SALIENCY, progress)
        table = measured_table(chain, unit.partition)
        shown = gallery_images(table)
        split = measured_split(chain, unit.partition)
        run = chain.tracker.run(
            experiment=f"fovea-{unit.partition}",
            name=f"classical@{unit.partition}",
            key=unit.key,
            parent_key=chain.tags.get("fovea.parent", ""),
            tags={
                **chain.tags,
                "fovea.stage": unit.stage,
                "fovea.unit": unit.key,
                "fovea.partition": unit.partition,
            },
        )
        try:
            pieces, done, fresh = [], 0, 0
            for codec in codecs:
                for subject, row in zip(subjects, table.to_dict("records"), strict=True):
                    keep = subject.image in shown
                    piece = digest(
                        {
                            "frame": row["key"],
                            "map": row["map_key"],
                            "image": row["image"],
                            "eyes": unit.inputs["data"] if subject.fixation_map is not None else "",
                            "codec": codec,
                            "keep": keep,
                            "code": unit.inputs["code"],
                        }
                    )
                    if not chain.store.has("classical_pictures", piece):
                        fresh += 1
                        seen = measure_classical(
                            codec,
                            [subject],
                            keep=frozenset([subject.image] if keep else []),
                            threads=chain.threads,
                        )
                        with chain.store.writing("classical_pictures", piece) as part:
                            part.path("rows.json").write_text(json.dumps(seen.rows))
                            for (_, point), picture in seen.kept.items():
                                part.path(f"kept/{point!r}.png").write_bytes(encode_png(picture))
                    rows = json.loads(chain.store.path("classical_pictures", piece, "rows.json").read_text())
                    for r in rows if keep else ():
                        kept = chain.store.path("classical_pictures", piece, f"kept/{r['rate']!r}.png")
                        shutil.copyfile(kept, writer.path(kept_name(subject.image, codec, r["rate"])))
                    pieces += [{"codec": codec, **r} for r in rows]
                    done += 1
                    progress(done, len(subjects) * len(codecs), "pictures measured")
            points = finish_points(
                pieces,
                dataset=unit.partition,
                split=split,
                train_dataset="",
                arm="classical",
                maps="none",
                preset="",
                experiment="",
                run_id=run.run_id,
            )
            points.to_parquet(writer.path(POINTS), index=False)
            means = points.groupby(["codec", "rate"])[["bpp", "psnr_db", "ms_ssim", "sw_psnr_db"]].mean()
            run.log_params(
                {
                    "codecs": ", ".join(codecs),
                    "dataset": unit.partition,
                    "split": split,
                    "pictures": len(subjects),
                }
            )
            run.log_inputs({unit.partition: str(unit.inputs["data"])}, "test")
            for codec in codecs:
                ordered = means.loc[codec]
                run.log_metrics(
                    [
                        (i, {f"{codec}/{k}": float(v) for k, v in r.items() if math.isfinite(v)})
                        for i, (_, r) in enumerate(ordered.iterrows())
                    ]
                )
            run.log_artifact(writer.path(POINTS))
            run.finish()
        except BaseException:
            run.finish("FAILED")
            raise
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = unit.key
        writer.meta["facts"] = {
            "pictures": len(subjects),
            "split": split,
            "rows": len(points),
            "measured": fresh,
            "reused": done - fresh,
        }


class RdPoints:
    """One experiment measured on one dataset: a row a picture and rate."""

    name = "rd_points"

    def _parts(self, chain: Chain, partition: str) -> tuple[Experiment, str]:
        key, _, dataset = partition.rpartition("@")
        return chain.experiment(key), dataset

    def unit(self, chain: Chain, partition: str) -> Unit:
        from models.codecs.catalogue import code_module

        experiment, dataset = self._parts(chain, partition)
        model = experiment.saliency if experiment.maps in ("predicted", "shuffled") else DEFAULT_SALIENCY
        inputs = {
            "partition": partition,
            "experiment": chain.unit("trained_codec", experiment.key).key,
            "maps": experiment.maps,
            experiment.rate_name: list(experiment.rates),
            **rate_inputs(chain, experiment),
            "data": data_digest(chain, dataset, model),
            "code": code_version("assets.evaluation.measure", code_module(experiment.codec), *MAPS_CODE),
        }
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.measure import measure_codec
        from assets.evaluation.rate_distortion import records
        from assets.frames.encode import encode_png
        from models.codecs.catalogue import load_codec

        experiment, dataset = self._parts(chain, unit.partition)
        trained = chain.made("trained_codec", experiment.key)
        verdict = str(trained.facts.get("doctor", ""))
        if verdict.startswith("failed"):
            raise FoveaError(f"{experiment.key} is not fit to be compared; codec doctor {verdict}")
        subjects = subjects_of(chain, dataset, experiment.maps, experiment.saliency, progress)
        shown = frozenset(gallery_images(measured_table(chain, dataset)))
        run = chain.tracker.run(
            experiment=f"fovea-{experiment.dataset}",
            name=unit.partition,
            key=unit.key,
            parent_key=str(trained.manifest["meta"].get("mlflow_key", "")),
            tags={
                **chain.tags,
                "fovea.stage": unit.stage,
                "fovea.unit": unit.key,
                "fovea.partition": unit.partition,
            },
        )
        try:
            run.log_params({**experiment.resolved(), "measured_on": dataset, "experiment": experiment.key})
            run.log_inputs({dataset: str(unit.inputs["data"])}, "test")
            codec = load_codec(trained.folder / "codec")
            searched = searched_rates(chain, experiment, codec, progress)
            rates = [r["lmbda"] for r in searched] or experiment.rates
            run.log_metrics([(i, {f"target/{k}": v for k, v in r.items()}) for i, r in enumerate(searched)])
            seen = measure_codec(codec, subjects, rates, keep=shown, threads=chain.threads, progress=progress)
            points = finish_points(
                seen.rows,
                dataset=dataset,
                split=measured_split(chain, dataset),
                train_dataset=experiment.dataset,
                arm=experiment.arm,
                maps=experiment.maps,
                preset=experiment.preset,
                experiment=experiment.key,
                run_id=run.run_id,
                seed=experiment.seed,
                rate_name=experiment.rate_name,
                codec=experiment.codec,
                variant=experiment.variant,
            )
            smaller = check_estimate(points, unit.partition)
            points.to_parquet(writer.path(POINTS), index=False)
            for (image, rate), picture in seen.kept.items():
                writer.path(kept_name(image, "", rate)).write_bytes(encode_png(picture))
            numbers = points.select_dtypes("number").drop(columns=["seed"], errors="ignore")
            for place, rate in enumerate(rates):
                means = numbers[points.rate == rate].mean()
                run.log_metrics([(place, {str(k): float(v) for k, v in means.items() if math.isfinite(v)})])
            run.log_table(records(points[["image", "bpp", "psnr_db", "ms_ssim", "sw_psnr_db"]]), "points")
            run.log_artifact(writer.path(POINTS))
            run.finish()
        except BaseException:
            run.finish("FAILED")
            raise
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = unit.key
        writer.meta["facts"] = {
            "pictures": len(subjects),
            **({"rates": searched} if searched else {}),
            "files_below_estimate": smaller,
            **{
                k: round(float(points[k].mean()), 5)
                for k in ("bpp", "psnr_db", "ms_ssim", "sw_psnr_db", "encode_s", "decode_s")
            },
        }


def published_of(chain: Chain, sweep: Sweep) -> list[tuple[str, PublishedCurve]]:
    """The measured split and curve of everything published on the datasets that a sweep is measured on."""
    datasets = sorted({sweep.dataset, *(d for e in sweep.experiments for d in e.evaluate_on)})
    found = {d: published_curves(chain.home.config, d) for d in datasets}
    return [(measured_split(chain, d), c) for d, curves in found.items() for c in curves]


def _published_rows(chain: Chain, sweep: Sweep) -> pd.DataFrame:
    from assets.evaluation.rate_distortion import published_rows

    return published_rows(
        (c.dataset, split, c.name, c.source, c.points) for split, c in published_of(chain, sweep)
    )


def _sweep_unit(chain: Chain, stage: str, partition: str, entry: str) -> Unit:
    if partition not in chain.sweeps:
        raise FoveaError(f"no sweep {partition!r}; write dataset.sweep, for example sample.smoke")
    found, missing = pieces_of(chain, chain.sweeps[partition])
    if not found:
        raise Waiting("rd_points", partition)
    inputs = {
        "sweep": partition,
        "points": digest([m.unit.key for m in found]),
        "pieces": len(found),
        "missing": len(missing),
        "published": digest(
            [[c.name, c.source, c.points] for _, c in published_of(chain, chain.sweeps[partition])]
        ),
        "code": code_version(entry, "assets.evaluation.plots"),
    }
    return Unit(stage, partition, inputs)


class RdCurves:
    """Means over pictures and seeds with 95 % bootstrap intervals."""

    name = "rd_curves"

    def unit(self, chain: Chain, partition: str) -> Unit:
        return _sweep_unit(chain, self.name, partition, "assets.evaluation.rate_distortion")

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.plots import rd_plot
        from assets.evaluation.rate_distortion import rd_curves

        sweep = chain.sweeps[unit.partition]
        others = _published_rows(chain, sweep)
        curves = rd_curves(sweep_points(chain, sweep))
        curves = (pd.concat([curves, others], ignore_index=True) if len(others) else curves).assign(
            sweep=sweep.name
        )
        curves.to_parquet(writer.path("rd_curves.parquet"), index=False)
        for metric in ("psnr_db", "sw_psnr_db"):
            writer.path(f"shown/rd_{metric}.png").write_bytes(rd_plot(curves, metric, title=unit.partition))
        found, missing = pieces_of(chain, sweep)
        writer.meta["pieces"] = [[m.unit.stage, m.unit.key] for m in found]
        writer.meta["facts"] = {
            "points": len(curves),
            "pieces": unit.inputs["pieces"],
            "missing": f"{len(missing)}: {', '.join(missing)}" if missing else 0,
        }
        writer.meta["missing"] = missing


class BdRates:
    """BD-rates with paired bootstrap intervals and refusals, and the ideal that the maps allow."""

    name = "bd_rates"

    def unit(self, chain: Chain, partition: str) -> Unit:
        unit = _sweep_unit(chain, self.name, partition, "assets.evaluation.bd_rate")
        ideal = code_version("assets.evaluation.ideal", "assets.saliency.fixations")
        return Unit(unit.stage, unit.partition, {**unit.inputs, "ideal": ideal})

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.bd_rate import bd_rates, published_rates
        from assets.evaluation.ideal import ideal_rows
        from assets.evaluation.plots import forest_plot
        from assets.evaluation.rate_distortion import label_arm, rd_curves

        sweep = chain.sweeps[unit.partition]
        points = sweep_points(chain, sweep)
        table = bd_rates(points, sweep=sweep.name)
        others = _published_rows(chain, sweep)
        if len(others):
            table = pd.concat(
                [table, published_rates(rd_curves(points, resamples=2), others, sweep=sweep.name)],
                ignore_index=True,
            )
        table.to_parquet(writer.path("bd_rates.parquet"), index=False)
        measured = measured_table(chain, sweep.dataset)
        subjects = subjects_of(chain, sweep.dataset, "none", DEFAULT_SALIENCY, progress)
        ideal = ideal_rows(
            [s.saliency_map for s in subjects],
            [s.fixation_map for s in subjects],
            fixation_halves=fixation_halves(chain, sweep.dataset, measured, [s.picture for s in subjects]),
            images=list(measured.image),
        )
        ideal.assign(dataset=sweep.dataset).to_parquet(writer.path("ideal.parquet"), index=False)
        asked = "ew_psnr_db" if (table.metric == "ew_psnr_db").any() else "sw_psnr_db"
        writer.path("shown/bd_rates.png").write_bytes(forest_plot(table, asked, title=unit.partition))
        told = table[table.status != "refused"]
        writer.meta["facts"] = {"comparisons": len(table), "refused": len(table) - len(told)}
        run = chain.tracker.run(
            experiment=f"fovea-{sweep.dataset}",
            name=f"sweep {sweep.key}",
            key=f"sweep {sweep.key}",
            tags={**chain.tags, "fovea.stage": "sweep", "fovea.sweep": sweep.key},
        )
        run.log_params({"sweep": sweep.name, "dataset": sweep.dataset, "experiments": len(sweep.experiments)})
        values = {
            f"bd/{label_arm(r['test_arm'], r['maps'])}_vs_{r['anchor_arm']}/{r['codec']}/{r['metric']}".replace(
                "@", "_"
            ): float(r["bd_rate_percent"])
            for r in told.to_dict("records")
            if r["method"] == "pchip" and math.isfinite(r["bd_rate_percent"])
        }
        run.log_metrics([(unit.inputs["pieces"], values)])
        run.log_artifact(writer.path("bd_rates.parquet"))
        run.log_figure(writer.path("shown/bd_rates.png").read_bytes(), "curves/bd_rates.png")
        run.finish()
        writer.meta["mlflow_run_id"] = run.run_id
        writer.meta["mlflow_key"] = f"sweep {sweep.key}"
        ready = [e for e in sweep.experiments if chain.ready("trained_codec", e.key)]
        best = best_experiment(ready, told)
        if best is not None:
            writer.meta["facts"] |= self._register(chain, sweep, best)

    def _register(self, chain: Chain, sweep: Sweep, best: Experiment) -> dict[str, str]:
        """Name the sweep's best codec in MLflow's registry, with an alias."""
        trained = chain.made("trained_codec", best.key)
        key = str(trained.manifest["meta"].get("mlflow_key", trained.unit.key))
        story = chain.tracker.run(experiment=f"fovea-{best.dataset}", name=best.key, key=key)
        name, alias = f"fovea-{best.codec}", f"best-{sweep.dataset}-{sweep.name}"
        address = chain.tracker.register_model(story, folder=trained.folder / "codec", name=name, alias=alias)
        story.finish()
        return {"best": best.key, **({"model": address} if address else {})}


def best_experiment(experiments: Sequence[Experiment], rates: pd.DataFrame) -> Experiment | None:
    """The middle rate of the arm with the lowest BD-rate against `uniform` where people look (ew_psnr_db, else
    sw_psnr_db), its interval below 0; `uniform` when there is none. None without experiments."""
    from assets.evaluation.rate_distortion import records

    asked = "ew_psnr_db" if (rates.metric == "ew_psnr_db").any() else "sw_psnr_db"
    against = rates[(rates.anchor_arm == "uniform") & (rates.metric == asked) & (rates.method == "pchip")]
    against = against[(against.ci_high < 0) & ~against.maps.isin(["oracle", "shuffled", "center"])]
    chosen = [e for e in experiments if e.arm == "uniform"] or list(experiments)
    for row in records(against.sort_values("bd_rate_percent")):
        curve = (row["codec"], row["test_arm"], row["maps"], row["variant"])
        found = [e for e in experiments if (e.codec, e.arm, e.maps, e.variant) == curve]
        if found:
            chosen = found
            break
    return sorted(chosen, key=lambda e: e.rates)[len(chosen) // 2] if chosen else None


class Report:
    """One self-contained HTML file, also at FOVEA_HOME/reports/DATASET.SWEEP.html."""

    name = "report"

    def unit(self, chain: Chain, partition: str) -> Unit:
        curves, rates = chain.unit("rd_curves", partition), chain.unit("bd_rates", partition)
        return Unit(
            self.name,
            partition,
            {
                "rd_curves": curves.key,
                "bd_rates": rates.key,
                "code": code_version("assets.evaluation.report"),
                "template": digest(
                    [
                        (FOLDER / name).read_text()
                        for name in (
                            "page.html.j2",
                            "parts.html.j2",
                            "report.html.j2",
                            "report.css",
                            "report.js",
                        )
                    ]
                ),
            },
        )

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.gallery import gallery
        from assets.evaluation.report import render_report

        sweep = chain.sweeps[unit.partition]
        rates, curves = chain.made("bd_rates", unit.partition), chain.made("rd_curves", unit.partition)
        html = render_report(
            curves=pd.read_parquet(curves.folder / "rd_curves.parquet"),
            rates=pd.read_parquet(rates.folder / "bd_rates.parquet"),
            ideal=pd.read_parquet(rates.folder / "ideal.parquet"),
            gallery=gallery(chain, sweep),
            provenance=provenance(chain, sweep, unit),
        )
        writer.path("report.html").write_text(html)
        writer.meta["facts"] = {"bytes": len(html.encode())}


def provenance(chain: Chain, sweep: Sweep, unit: Unit) -> dict[str, Any]:
    """Where the report's numbers come from: commit, sweep, data version, budget, libraries, doctor."""
    from assets.versions import commit, library_versions

    table = measured_table(chain, sweep.dataset)
    found, missing = pieces_of(chain, sweep)
    return {
        "commit": commit(),
        "sweep": sweep.key,
        "about": sweep.about,
        "dataset": sweep.dataset,
        "pictures": len(table),
        "split": measured_split(chain, sweep.dataset),
        "data version": data_digest(chain, sweep.dataset),
        "saliency model": chosen_model(chain, sweep.dataset),
        "experiments": len(sweep.experiments),
        "missing": ", ".join(missing),
        "budget": sorted(
            {
                f"{e.preset}: {e.resolved()['steps']} steps of batch {e.resolved()['batch_size']}"
                for e in sweep.experiments
            }
        ),
        "trunks": [t.key for t in sweep.trunks],
        "libraries": ", ".join(f"{k} {v}" for k, v in library_versions().items()),
        "unit": unit.key,
        "pieces": len(found),
        "mlflow_run_url": mlflow_address(chain, found),
    }


def mlflow_address(chain: Chain, pieces: list[Made]) -> str:
    """Where a run id leads, with `{run_id}` in it; "" when MLflow knows none of the runs."""
    for run_id in (str(m.manifest["meta"].get("mlflow_run_id", "")) for m in pieces):
        if address := chain.tracker.run_url(run_id):
            return address.replace(run_id, "{run_id}")
    return ""


def publish(chain: Chain, made: Made) -> None:
    """Copy a report to where people look for it, and bring the tables up to date."""
    from assets.home import written_beside

    target = chain.home.reports / f"{made.unit.partition}.html"
    source = Path(made.folder / "report.html")
    if not target.exists() or target.read_bytes() != source.read_bytes():
        with written_beside(target) as beside:
            beside.write_bytes(source.read_bytes())
    if chain.home.shared is not None:
        chain.home.shared.put(source, f"reports/{target.name}")
    write_tables(chain)
