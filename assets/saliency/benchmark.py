"""Every saliency model against recorded eyes, from the store to table, plot and tracker."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from assets.graph import Task
from assets.saliency.names import FIXATIONS, FLIP, PICTURES, SUMMARY
from assets.saliency.plots import benchmark_plot
from assets.saliency.sources import MapSource, open_model
from assets.story import told
from models.device import chosen_device
from models.errors import FoveaError
from models.saliency.benchmark import format_table, score_pictures, summarise
from models.saliency.maps import SaliencyModel


def run_benchmark(task: Task, sources: Mapping[str, MapSource]) -> None:
    """Fill the unit: `saliency_benchmark.parquet` (a row a model and metric), `scores.parquet` (a row a model and
    picture), `shown/benchmark.md`, `shown/benchmark.png`, facts. Raises FoveaError for fewer than two pictures."""
    made, unit, writer = task.given["fixation_maps"], task.unit, task.writer
    eyes = made.table(FIXATIONS)
    pictures = made.table(PICTURES)
    part = str(unit.inputs["split"])
    measured = pictures[pictures.split == part]
    if len(measured) < 2:
        raise FoveaError(f"dataset {unit.partition!r}: a benchmark needs fixations on at least two {part} pictures")
    keys = dict(zip(pictures.image, pictures.key, strict=True))

    def picture(image: str) -> NDArray[np.uint8]:
        return np.asarray(made.array("resized_frames", keys[image]))

    device = chosen_device(task.device)
    models: dict[str, SaliencyModel] = {}
    for label, source in sources.items():
        plain = models.get(label.removesuffix(FLIP))
        models[label] = plain or open_model(source, device=device)
    with told(task, dataset=unit.partition, name=f"saliency@{unit.partition}") as run:
        versions = {f"model.{label.replace(FLIP, '_flip')}": s.version for label, s in sources.items()}
        run.log_params({"dataset": unit.partition, "split": part, "pictures": len(measured), **versions})
        run.log_inputs({unit.partition: made.version("measured")}, "test")
        scores = score_pictures(
            models,
            picture,
            eyes,
            sorted(measured.image),
            train=sorted(pictures.image[pictures.split == "train"]),
            threads=task.threads if device == "cpu" else 1,
            progress=task.progress,
        )
        scores.to_parquet(writer.path("scores.parquet"), index=False)
        seen = {label: sum(source.seen.trained_on(measured.sha256)) for label, source in sources.items()}
        summary = summarise(scores)
        table = summary.assign(
            dataset=unit.partition,
            split=part,
            trained_on=[seen.get(m, 0) for m in summary.model],
            mlflow_run_id=run.run_id,
        )
        table.to_parquet(writer.path(SUMMARY), index=False)
        text = format_table(summary)
        notes = [f"{m} was trained on {n} of these pictures: its row is no evidence." for m, n in seen.items() if n]
        writer.path("shown/benchmark.md").write_text("\n".join([text, "", *notes]).rstrip() + "\n")
        png = benchmark_plot(summary, title=f"{unit.partition}, {part}: {len(measured)} pictures")
        writer.path("shown/benchmark.png").write_bytes(png)
        values = {
            f"{r['model'].replace(FLIP, '_flip')}/{r['metric']}": float(r["mean"]) for r in summary.to_dict("records")
        }
        run.log_metrics([(0, values)])
        run.log_table([{str(k): v for k, v in r.items()} for r in summary.to_dict("records")], "saliency_benchmark")
        run.log_figure(png, "curves/saliency_benchmark.png")
        run.log_artifact(writer.path(SUMMARY))
    means = summary.set_index(["model", "metric"])["mean"]
    best = max(sources, key=lambda m: float(means[m, "nss"]))
    writer.meta["facts"] = {
        "pictures": len(measured),
        "split": part,
        "models": len(sources),
        "best_by_nss": best,
        **{k: round(float(means[best, k]), 4) for k in ("cc", "nss", "kl", "auc_shuffled")},
        "trained_on_measured": ", ".join(m for m, n in seen.items() if n),
    }
