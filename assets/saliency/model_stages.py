"""`fixation_maps`, `saliency_model`, `saliency_benchmark`: what people looked at, models of it, and how good those are."""

from pathlib import Path
from typing import Any

import pandas as pd

from assets.chain import Chain, Made, Progress, Unit
from assets.frames.stages import resized_table, source_table
from assets.saliency.names import FIXATIONS, FLIP, PICTURES, fixations_digest, trainings
from assets.saliency.stages import MapSource, map_sources
from assets.store import UnitWriter, digest
from assets.versions import code_version
from models.errors import FoveaError
from models.saliency.records import SaliencyTraining, training_of

SHOWN_OVERLAYS = 6
CODE = {
    "sam_lite": "models.training.sam_lite",
    "sam_vgg": "models.training.sam",
    "sam_resnet": "models.training.sam",
}


class FixationMaps:
    """People's fixations moved to the frames. Densities are drawn from them where they are needed."""

    name = "fixation_maps"

    def unit(self, chain: Chain, partition: str) -> Unit:
        """See assets.chain.Stage."""
        from assets.saliency.fixations import fixation_table

        dataset = chain.dataset(partition)
        fixation_table(dataset)
        table = resized_table(chain, partition)
        inputs = {
            "frames": digest(table[["image", "split", "key"]].to_numpy().tolist()),
            "fixations": fixations_digest(chain, partition),
            "size": str(dataset.size),
            "code": code_version("assets.saliency.fixations"),
        }
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """See assets.chain.Stage."""
        import numpy as np

        from assets.frames.contact import contact_sheet, overlay
        from assets.saliency.fixations import fixation_map, frame_fixations
        from assets.saliency.stages import top_share

        table = resized_table(chain, unit.partition)
        index = chain.store.index("resized_frames")
        if not all(k in index for k in table.key):
            raise FoveaError(f"resized_frames of {unit.partition} has to be made first")
        moved = frame_fixations(chain.dataset(unit.partition), table)
        eyes = moved.table[["image", "subject", "x", "y"]]
        eyes.to_parquet(writer.path(FIXATIONS), index=False)
        groups = {str(image): rows for image, rows in eyes.groupby("image")}
        looked = table[table.image.isin(groups)].sort_values("image").reset_index(drop=True)
        looked = looked[["image", "split", "key", "sha256"]].assign(
            fixations=[len(groups[i]) for i in looked.image],
            people=[groups[i]["subject"].nunique() for i in looked.image],
        )
        maps = []
        sums: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}
        shares = []
        chosen = set(looked.image.iloc[:: max(1, len(looked) // SHOWN_OVERLAYS)][:SHOWN_OVERLAYS])
        for done, row in enumerate(looked.to_dict("records"), 1):
            height, width = index[row["key"]].shape[:2]
            points = groups[row["image"]][["x", "y"]].to_numpy(np.float64) - 0.5
            density = fixation_map(points, (width, height))
            scaled = np.round(density * (255 / density.max())).astype(np.uint8)
            shares.append(top_share(scaled))
            if row["image"] in chosen:
                maps.append(overlay(chain.store.array("resized_frames", row["key"]), scaled))
            sums[density.shape] = sums.get(density.shape, np.zeros(density.shape)) + density
            progress(done, len(looked), "fixation maps drawn")
        looked["top10_share"] = shares
        looked.to_parquet(writer.path(PICTURES), index=False)
        # what depends on one part of the pictures stays fresh when only another part changes
        writer.meta["parts"] = {
            part: digest([
                looked[looked.split == part][["image", "key"]].to_numpy().tolist(),
                eyes[eyes.image.isin(set(looked.image[looked.split == part]))].to_numpy().tolist(),
            ])
            for part in ("train", "val", "test")
        }  # fmt: skip
        writer.meta["facts"] = {
            "pictures": len(looked),
            **{f"pictures_{s}": int((looked.split == s).sum()) for s in ("train", "val", "test")},
            "pictures_without": len(table) - len(looked),
            "people": int(eyes.subject.nunique()),
            "fixations": len(eyes),
            "dropped": moved.dropped,
            "top10_share": round(float(looked.top10_share.mean()), 4),
        }
        writer.path("shown/people.png").write_bytes(contact_sheet(maps))
        mean = max(sums.values(), key=lambda m: float(m.sum()))
        writer.path("shown/mean_map.png").write_bytes(
            contact_sheet([(mean / mean.max() * 255).astype(np.uint8)], 1)
        )


class SaliencyModel:
    """A saliency model trained on a dataset's fixations, resumable, told to the tracker."""

    name = "saliency_model"

    def unit(self, chain: Chain, partition: str) -> Unit:
        """See assets.chain.Stage."""
        training = training_of(partition)
        parts = chain.made("fixation_maps", training.dataset).manifest["meta"]["parts"]
        inputs: dict[str, Any] = {
            "record": training.resolved(),
            "code": code_version(CODE[training.variant]),
            "train_fixations": parts["train"],
            "val_fixations": parts["val"],
        }
        if training.published_start:
            inputs["start"] = map_sources(chain, start_model(chain, training))[0].version
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """See assets.chain.Stage."""
        from assets.saliency.train import train_saliency

        train_saliency(chain, unit, training_of(unit.partition), writer, progress)


def start_model(chain: Chain, training: SaliencyTraining) -> str:
    """The catalogue's model whose weights a training starts from. Raises FoveaError when they are missing."""
    path = chain.home.state / "weights" / f"{training.variant}.safetensors"
    if not path.is_file():
        raise FoveaError(
            f"{training.key} starts from the published weights, which are not at {path}: get them with `fovea "
            f"saliency-weights fetch {training.variant}`, or train from random numbers (much more data): "
            f"{training.dataset}.{training.variant}-scratch"
        )
    return training.variant


class SaliencyBenchmark:
    """How well each saliency model predicts where people looked, on the dataset's measured split."""

    name = "saliency_benchmark"

    def unit(self, chain: Chain, partition: str) -> Unit:
        """See assets.chain.Stage."""
        from models.saliency.catalogue import code_modules

        parts = chain.made("fixation_maps", partition).manifest["meta"]["parts"]
        split = measured_part(chain, partition)
        models = benchmarked(chain)
        inputs = {
            "split": split,
            "fixations": parts[split],
            "train_fixations": parts["train"],
            "models": {label: s.version for label, s in models.items()},
            "code": code_version("models.saliency.benchmark"),
            "model_code": code_version(
                *sorted({m for s in models.values() for m in code_modules(s.variant)})
            ),
        }
        return Unit(self.name, partition, inputs)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        """See assets.chain.Stage."""
        from assets.saliency.benchmark import run_benchmark

        run_benchmark(chain, unit, benchmarked(chain), writer, progress)


def measured_part(chain: Chain, dataset: str) -> str:
    """The split that models are measured on: test where it has fixations, else val."""
    pictures = pd.read_parquet(chain.made("fixation_maps", dataset).folder / PICTURES)
    present = set(pictures.split)
    wanted = chain.dataset(dataset).evaluation_split(source_table(chain, dataset))
    if wanted not in present:
        raise FoveaError(
            f"dataset {dataset!r}: no fixations on its {wanted} pictures, so nothing to measure on"
        )
    return str(wanted)


def benchmarked(chain: Chain) -> dict[str, MapSource]:
    """Label → source of every model that is here: the catalogue's with their weights, and all that the user trained
    (folds excepted). `+flip` averages with the mirrored picture's map."""
    found: dict[str, MapSource] = {}
    for label in ("center_prior", "spectral_residual", "sam_lite", f"sam_lite{FLIP}"):
        found[label] = map_sources(chain, label.removesuffix(FLIP))[0]
    for name in ("sam_vgg", "sam_resnet"):
        if (chain.home.state / "weights" / f"{name}.safetensors").is_file():
            found[name] = map_sources(chain, name)[0]
    wanted = {
        **trainings(chain),
        **{r["partition"]: training_of(r["partition"]) for r in chain.all_latest("saliency_model")},
    }
    for key, training in sorted(wanted.items()):
        try:
            if not training.folds and chain.ready("saliency_model", key):
                found[key] = map_sources(chain, key)[0]
        except FoveaError:
            continue  # its dataset or its start weights are gone: nothing to measure
    return found


def benchmark_table(made: Made) -> str:
    """The Markdown table of a benchmark."""
    return Path(made.folder / "shown" / "benchmark.md").read_text()
