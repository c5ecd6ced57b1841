"""`rd_points`: trained codecs on the measured split."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.evaluation import pieces
from assets.evaluation.checks import TRAINED
from assets.graph import Need, Stage, Task, View
from assets.story import maps_by, rate_run, record_of, short_name, told, training_run
from assets.world import World, evaluation_key
from models.errors import FoveaError
from models.experiments import Experiment

#: columns of points that an experiment has under the same name
OF_EXPERIMENT = ("codec", "arm", "maps", "preset", "variant", "rate_name", "seed")


def parts(world: World, partition: str) -> tuple[Experiment, str]:
    """The experiment and the dataset that it is measured on."""
    key, _, dataset = partition.rpartition("@")
    return world.experiment(key), dataset


class RdPoints(Stage):
    """A row a picture and rate: bytes of the real file, PSNR, MS-SSIM and their saliency- and eye-weighted forms."""

    name = "rd_points"
    reads = ("trained_codec", "rgba_frames")
    group, kinds, checks = "evaluation", frozenset({"pytorch", "mlflow"}), TRAINED
    gpu = share = True

    def partitions(self, world: World) -> list[str]:
        told = world.experiments.values()
        return [evaluation_key(e.key, dataset) for e in told for dataset in e.evaluate_on]

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        experiment, dataset = parts(world, partition)
        return [Need("trained_codec", experiment.key), *pieces.measured_needs(dataset)]

    def inputs(self, view: View) -> Mapping[str, Any]:
        experiment, dataset = parts(view.world, view.partition)
        return {
            "partition": view.partition,
            "maps": experiment.maps,
            experiment.rate_name: list(experiment.rates),
            "fixations": view.world.fixations_digest(dataset),
        }

    def code(self, world: World, partition: str) -> Sequence[str]:
        from models.codecs.catalogue import code_module

        return (code_module(parts(world, partition)[0].codec),)

    def apart(self, world: World, partition: str) -> Sequence[str]:
        return pieces.LOOKS_ON

    def make(self, task: Task) -> None:
        from assets.evaluation.equal_size import measure_shown
        from assets.evaluation.measure import measure_codec
        from assets.evaluation.rate_distortion import records
        from assets.frames.encode import encode_png
        from models.codecs.catalogue import WEIGHTS, load_codec
        from models.seen import read_seen

        unit, writer = task.unit, task.writer
        experiment, dataset = parts(task.world, unit.partition)
        trained = task.given["trained_codec"]
        verdict = str(trained.facts.get("doctor", ""))
        if verdict.startswith("failed"):
            raise FoveaError(f"{experiment.key} is not fit to be compared; codec doctor {verdict}")
        subjects = pieces.subjects_of(task, dataset, experiment.maps)
        table = pieces.measured_table(task, dataset)
        shown = frozenset(pieces.gallery_images(table.image))
        parent, name = str(trained.meta.get("mlflow_key", "")), f"{short_name(experiment)} on {dataset}"
        with told(task, dataset=experiment.dataset, name=name, parent=parent or None) as run:
            run.log_params({**record_of(experiment, task.world), "measured_on": dataset, "experiment": experiment.key})
            run.log_inputs({dataset: str(unit.inputs[pieces.MEASURED])}, "test")
            run.set_tags(maps_by(task, dataset, experiment.maps))
            codec = load_codec(trained.folder / "codec")
            rates, threads = experiment.rates, task.threads
            # of a variable rate, files of equal size are shown in place of those that are measured
            keep = frozenset() if codec.top_level else shown
            seen = measure_codec(codec, subjects, rates, keep=keep, threads=threads, progress=task.progress)
            known = dict(
                zip(table.image, read_seen(trained.folder / "codec" / WEIGHTS).trained_on(table.sha256), strict=True)
            )
            about: dict[str, Any] = {
                **{k: getattr(experiment, k) for k in OF_EXPERIMENT},
                "preset": "" if experiment.as_shipped else experiment.preset,
                "dataset": dataset,
                "split": str(table.split.iloc[0]),
                "train_dataset": "" if experiment.untrained else experiment.dataset,
                "experiment": experiment.key,
                "mlflow_run_id": run.run_id,
            }
            points, kept = pieces.finish_points(seen.rows, **about), seen.kept
            points["trained_on"] = points.image.map(known).astype("boolean")
            if codec.top_level:
                equal = measure_shown(codec, [s for s in subjects if s.image in shown], rates, threads=threads)
                rows = pieces.finish_points(equal.rows, **about)
                rows.to_parquet(writer.path(pieces.SHOWN), index=False)
                kept = equal.kept
            smaller = pieces.check_estimate(points, unit.partition)
            points.to_parquet(writer.path(pieces.POINTS), index=False)
            for (image, rate), picture in kept.items():
                writer.path(pieces.kept_name(image, "", rate)).write_bytes(encode_png(picture))
            numbers = points.select_dtypes("number").drop(columns=["seed"], errors="ignore")
            means = [pieces.finite_means(numbers[points.rate == rate]) for rate in rates]
            if len(rates) == 1:
                run.log_metrics([(0, means[0])])
            run.log_table(records(points[["image", *pieces.MEANS]]), "points")
            run.log_artifact(writer.path(pieces.POINTS))
        if dataset == experiment.evaluate_on[0]:
            for rate, mean in zip(rates, means, strict=True):
                one = (task, trained, experiment)
                with training_run(*one) if len(rates) == 1 else rate_run(*one, rate, task.tags) as training:
                    training.log_latest(pieces.headline(mean))
        writer.meta["facts"] = {
            "pictures": len(subjects),
            "rates": len(rates),
            "files_below_estimate": smaller,
            "trained_on": sum(known.values()),
            **{
                k: from_to(v) for k in (*pieces.MEANS, "encode_s", "decode_s") if (v := [m[k] for m in means if k in m])
            },
        }


def from_to(values: Sequence[float]) -> float | str:
    """A mean at one rate; of several rates the least and the highest: a mean over them is no file's. values: at least one."""
    low, high = min(values), max(values)
    return round(low, 5) if low == high else f"{low:.4g} … {high:.4g}"
