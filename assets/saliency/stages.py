"""`saliency_maps` and `rgba_frames`: where people look, and both in one PNG."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.chain import Chain, Progress, Row, Unit, Waiting
from assets.frames.stages import SHARD_FRAMES, resized_table
from assets.saliency.names import chosen_model
from assets.saliency.sizes import chosen, mean_sizes, measure_sizes, sizes_markdown, sizes_table
from assets.saliency.statistics import MAPS, earlier, measure_maps
from assets.store import UnitWriter, digest
from assets.versions import code_version
from models.experiments import DEFAULT_SALIENCY
from models.saliency.maps import SaliencyModel
from models.saliency.records import Seen, read_seen, short, trainings_of

SIZES, SIZES_VERSION = "sizes.parquet", "1"


NOTHING_SEEN = Seen()


@dataclass(frozen=True)
class MapSource:
    """Weights that maps come from: of a variant in the catalogue, in a file, or (None) where the catalogue has them."""

    variant: str
    weights: Path | None
    version: str
    seen: Seen = NOTHING_SEEN


def map_sources(chain: Chain, model: str) -> tuple[MapSource, ...]:
    """The sources behind a model's name: the model itself, then those that left out a part of its training pictures.

    Raises Waiting for a training that is not done, FoveaError for an unknown name or missing weights.
    """
    from models.saliency.catalogue import describe_weights, model_version, shipped_folds, weights_path

    cache: dict[str, tuple[MapSource, ...]] = chain.__dict__.setdefault("_map_sources", {})
    if model in cache:
        return cache[model]

    def source(variant: str, weights: Path | None) -> MapSource:
        if weights is None:
            return MapSource(variant, None, model_version(variant))
        return MapSource(variant, weights, model_version(variant, weights), read_seen(weights))

    trained = trainings_of(model)
    if trained:
        files = []
        for training in trained:
            unit = chain.unit("saliency_model", training.key)
            if not chain.store.has("saliency_model", unit.key):
                raise Waiting("saliency_model", training.key)
            files.append(
                chain.store.folder("saliency_model", unit.key) / f"weights/{training.variant}.safetensors"
            )
        found = [source(t.variant, f) for t, f in zip(trained, files, strict=True)]
    elif model in ("sam_vgg", "sam_resnet"):
        found = [source(model, chain.home.state / "weights" / f"{model}.safetensors")]
    elif model == "sam_lite":
        shipped = weights_path(model)
        folds = [p for p in shipped_folds(model) if describe_weights(p)]
        found = [source(model, path) for path in (shipped, *folds)]
    else:
        found = [source(model, None)]
    if not trained:
        cache[model] = tuple(found)
    return tuple(found)


def map_keys(chain: Chain, name: str, model: str = DEFAULT_SALIENCY) -> pd.DataFrame:
    """resized_table with the key of each frame's map: `map_key`, and where the map comes from.

    `map_source`: index in `map_sources`. `map_seen`: whether its weights were trained on this very picture. A picture that
    the model was trained on gets its map from weights that have not seen it, where there are any.
    """
    from models.saliency.catalogue import code_modules

    table = resized_table(chain, name)
    sources = map_sources(chain, chosen_model(chain, name, model))
    code = code_version(*code_modules(sources[0].variant))
    picked: list[int] = []
    for content in table.sha256:
        unseen = (i for i, s in enumerate(sources) if short(str(content)) not in s.seen.train)
        picked.append(next(unseen, 0))
    keys = [
        digest({"frame": k, "model": sources[i].variant, "version": sources[i].version, "code": code})
        for k, i in zip(table.key, picked, strict=True)
    ]
    seen = [short(str(c)) in sources[i].seen.train for c, i in zip(table.sha256, picked, strict=True)]
    return table.assign(map_key=keys, map_source=picked, map_seen=seen)


def open_model(source: MapSource, *, device: str = "cpu", threads: int = 1) -> SaliencyModel:
    """The source, ready to predict."""
    from models.saliency.predict import load_model

    return load_model(source.variant, weights_dir=source.weights, device=device, threads=threads)


def predict_chunk(chain: Chain, name: str, rows: Sequence[Row], progress: Progress) -> int:
    """Predict the maps of frames, all by the weights that the first row names, into shards; returns their bytes."""
    from models.device import chosen_device

    source = map_sources(chain, str(rows[0]["model"]))[int(rows[0]["map_source"])]
    predictor = open_model(source, device=chosen_device(chain.device), threads=chain.threads)
    put_bytes = 0
    for start in range(0, len(rows), SHARD_FRAMES):
        part = rows[start : start + SHARD_FRAMES]
        maps = predictor.predict([chain.store.array("resized_frames", str(r["key"])) for r in part])
        chain.store.put_shard(
            "saliency_maps", [(str(r["map_key"]), m) for r, m in zip(part, maps, strict=True)]
        )
        put_bytes += sum(m.nbytes for m in maps)
        chain.store.release()
        progress(start + len(part), len(rows), "maps predicted")
    return put_bytes


def ensure_maps(chain: Chain, name: str, model: str, progress: Progress) -> tuple[pd.DataFrame, int, float]:
    """Predict the maps that the store does not have; returns the table, how many were made, and the seconds."""
    table = map_keys(chain, name, model)
    index = chain.store.index("saliency_maps")
    todo = table[[k not in index for k in table.map_key]].drop_duplicates("map_key")
    began = time.monotonic()
    if len(todo):
        asked = todo.assign(model=chosen_model(chain, name, model))
        for place in sorted(set(todo.map_source)):
            rows: list[Row] = asked[asked.map_source == place].to_dict("records")  # type: ignore[assignment]
            chain.fan_out(chain, "saliency_maps", name, rows, predict_chunk, progress)
        chain.store.index("saliency_maps")
    return table, len(todo), time.monotonic() - began


def out_of_fold(table: pd.DataFrame) -> dict[str, int]:
    """How many frames have a map by weights that were trained on them, how many by weights that left them out."""
    return {
        "trained_on_frames": int(table.map_seen.sum()),
        **{f"trained_on_{s}": int(table.map_seen[table.split == s].sum()) for s in ("train", "val", "test")},
        "out_of_fold_frames": int((table.map_source > 0).sum()),
    }


def top_share(saliency_map: NDArray[np.uint8], part: float = 0.1) -> float:
    """Share of the map's mass in its most salient pixels; `part` (of all pixels) for a flat map."""
    values = np.sort(saliency_map.ravel().astype(np.float64))[::-1]
    total = values.sum()
    return float(values[: max(1, round(part * values.size))].sum() / total) if total else part


class SaliencyMaps:
    """A map a frame (uint8, 255 where the picture is most salient) from the dataset's saliency model."""

    name = "saliency_maps"

    def unit(self, chain: Chain, partition: str) -> Unit:
        table = map_keys(chain, partition)
        rows = table[["image", "split", "map_key"]].to_numpy().tolist()
        model = chosen_model(chain, partition)
        return Unit(self.name, partition, {"maps": digest(rows), "count": len(rows), "model": model})

    def complete(self, chain: Chain, unit: Unit) -> bool:
        """Whether each map is there."""
        index = chain.store.index(self.name)
        return all(key in index for key in map_keys(chain, unit.partition).map_key)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.frames.contact import contact_sheet, overlay
        from models.saliency.ideal import ideal_gain

        table, made, seconds = ensure_maps(chain, unit.partition, DEFAULT_SALIENCY, progress)
        version = code_version("models.saliency.ideal")
        known = earlier(chain, self.name, unit.partition, MAPS, version)

        def measure(saliency_map: NDArray[np.uint8]) -> tuple[float, ...]:
            ideal = ideal_gain(saliency_map, saliency_map)
            return top_share(saliency_map), ideal.gain_db, ideal.cost_db

        columns = ("top10_share", "ideal_gain_db", "ideal_cost_db")
        table, mean = measure_maps(chain, table, columns, measure, known)
        writer.meta["statistics"] = version
        table.to_parquet(writer.path(MAPS), index=False)
        writer.meta["facts"] = {
            "frames": len(table),
            "predicted": made,
            "reused": len(table) - made,
            "model": str(unit.inputs["model"]),
            **out_of_fold(table),
            "frames_per_s": round(made / seconds, 1) if made else 0.0,
            "top10_share": round(float(table.top10_share.mean()), 4),
            "ideal_sw_gain_db": round(float(table.ideal_gain_db.mean()), 3),
            "ideal_plain_cost_db": round(float(table.ideal_cost_db.mean()), 3),
        }
        ranked = table.sort_values("top10_share", ascending=False)
        for shown, rows in (("most_peaked", ranked.head(6)), ("least_peaked", ranked.tail(6))):
            pairs = [
                (chain.store.array("resized_frames", r["key"]), chain.store.array(self.name, r["map_key"]))
                for r in rows.to_dict("records")
            ]
            writer.path(f"shown/{shown}.png").write_bytes(contact_sheet([overlay(p, m) for p, m in pairs]))
        if mean is not None:
            writer.path("shown/mean_map.png").write_bytes(
                contact_sheet([(mean / max(mean.max(), 1e-9) * 255).astype(np.uint8)], 1)
            )


def pack_chunk(chain: Chain, name: str, rows: Sequence[Row], progress: Progress) -> int:
    """Pack frames and their maps into PNGs in the store; returns their bytes."""
    from assets.saliency.rgba import pack_many

    pairs = (
        (
            str(r["rgba_key"]),
            chain.store.array("resized_frames", str(r["key"])),
            chain.store.array("saliency_maps", str(r["map_key"])),
        )
        for r in rows
    )
    packed_bytes = 0
    for done, (key, data) in enumerate(pack_many(pairs, workers=chain.threads), 1):
        chain.store.put_object("rgba_frames", key, ".png", data)
        packed_bytes += len(data)
        if done % SHARD_FRAMES == 0:
            chain.store.release()
        progress(done, len(rows), "frames packed")
    return packed_bytes


class RgbaFrames:
    """The frame and its map in one lossless PNG, the map in the alpha channel: how frames leave Fovea."""

    name = "rgba_frames"

    def _table(self, chain: Chain, partition: str) -> pd.DataFrame:
        table = map_keys(chain, partition)
        code = code_version("assets.saliency.rgba")
        return table.assign(
            rgba_key=[
                digest({"frame": f, "map": m, "code": code})
                for f, m in zip(table.key, table.map_key, strict=True)
            ]
        )

    def unit(self, chain: Chain, partition: str) -> Unit:
        table = self._table(chain, partition)
        rows = table[["image", "split", "rgba_key"]].to_numpy().tolist()
        return Unit(self.name, partition, {"frames": digest(rows), "count": len(rows)})

    def complete(self, chain: Chain, unit: Unit) -> bool:
        """Whether each PNG is there."""
        return set(self._table(chain, unit.partition).rgba_key) <= chain.store.object_keys(self.name)

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.frames.contact import contact_sheet

        table = self._table(chain, unit.partition)
        there = chain.store.object_keys(self.name)
        todo = table[~table.rgba_key.isin(there)].drop_duplicates("rgba_key")
        began = time.monotonic()
        rows: list[Row] = todo.to_dict("records")  # type: ignore[assignment]
        packed_bytes = chain.fan_out(chain, self.name, unit.partition, rows, pack_chunk, progress)
        seconds = time.monotonic() - began
        sizes = self._sizes(chain, unit.partition, table)
        sizes.to_parquet(writer.path(SIZES), index=False)
        writer.meta["statistics"] = SIZES_VERSION
        writer.path("shown/map_sizes.md").write_text(sizes_markdown(sizes))
        shapes = [chain.store.index("saliency_maps")[k].shape for k in todo.map_key]
        table["path"] = [str(chain.store.object_path(self.name, k, ".png")) for k in table.rgba_key]
        table.to_parquet(writer.path("rgba.parquet"), index=False)
        writer.meta["facts"] = {
            "frames": len(table),
            "packed": len(todo),
            "reused": len(table) - len(todo),
            "bytes_in": sum(4 * height * width for height, width in shapes),
            "bytes_out": packed_bytes,
            "frames_per_s": round(len(todo) / seconds, 1) if len(todo) else 0.0,
            **{f"map_{way}": size for way, size in mean_sizes(sizes).items()},
        }
        first = table.iloc[0]
        shown = [
            chain.store.array("resized_frames", first.key),
            chain.store.array("saliency_maps", first.map_key),
        ]
        writer.path("shown/frame_and_alpha.png").write_bytes(contact_sheet(shown, 2))

    def _sizes(self, chain: Chain, name: str, table: pd.DataFrame) -> pd.DataFrame:
        models: dict[Any, Any] = {}

        def measure(row: Mapping[str, Any]) -> dict[str, int]:
            frame = chain.store.array("resized_frames", row["key"])
            source = map_sources(chain, chosen_model(chain, name))[row["map_source"]]
            if row["map_source"] not in models:
                models[row["map_source"]] = open_model(source, threads=chain.threads)
            density = models[row["map_source"]].predict_float([frame])[0]
            return measure_sizes(frame, chain.store.array("saliency_maps", row["map_key"]), density)

        rows: list[dict[str, Any]] = chosen(table).to_dict("records")  # type: ignore[assignment]
        return sizes_table(rows, earlier(chain, self.name, name, SIZES, SIZES_VERSION), measure)
