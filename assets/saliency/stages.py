"""`saliency_maps` and `rgba_frames`: where people look, and frames that carry it."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from assets.frames.stages import SHARD_FRAMES
from assets.graph import Bench, Need, Part, Progress, Row, Stage, Task, View
from assets.saliency.checks import MAPS as MAP_CHECKS
from assets.saliency.checks import RGBA as RGBA_CHECKS
from assets.saliency.names import chosen_model
from assets.saliency.sources import MapSource, keyed_maps, map_sources, open_model
from assets.store import digest
from assets.versions import code_version
from assets.world import World
from models.saliency.records import trainings_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def _sources(view: View) -> tuple[MapSource, ...]:
    return map_sources(view.world, view.given, chosen_model(view.world, view.partition))


def _keyed(view: View) -> "pd.DataFrame":
    """Every frame with the key of its map, and where that comes from."""
    frames, dataset = view.given["resized_frames"].part("frames"), view.dataset(view.partition)
    if dataset.maps:
        from assets.saliency.own_maps import keyed_own_maps

        return keyed_own_maps(dataset, frames, view.home.state / "cache")
    return keyed_maps(frames, _sources(view))


def read_chunk(bench: Bench, rows: Sequence[Row], progress: Progress) -> int:
    """Read frames' own maps into shards; returns their bytes."""
    from assets.saliency.own_maps import frame_map

    size, put_bytes = bench.dataset(bench.partition).size, 0
    for start in range(0, len(rows), SHARD_FRAMES):
        part = rows[start : start + SHARD_FRAMES]
        maps = [frame_map(row, size) for row in part]
        bench.shelf("saliency_maps").put_shard([(str(r["map_key"]), m) for r, m in zip(part, maps, strict=True)])
        put_bytes += sum(m.nbytes for m in maps)
        progress(start + len(part), len(rows), "maps read")
    return put_bytes


def predict_chunk(bench: Bench, rows: Sequence[Row], progress: Progress) -> int:
    """Predict the maps of frames, all by the weights that the first row names, into shards; returns their bytes."""
    from models.device import chosen_device

    source, frames = _sources(bench)[int(rows[0]["map_source"])], bench.given["resized_frames"]
    predictor = open_model(source, device=chosen_device(bench.device), threads=bench.threads)
    put_bytes = 0
    for start in range(0, len(rows), SHARD_FRAMES):
        part = rows[start : start + SHARD_FRAMES]
        maps = predictor.predict([frames.array("resized_frames", str(r["key"])) for r in part])
        bench.shelf("saliency_maps").put_shard([(str(r["map_key"]), m) for r, m in zip(part, maps, strict=True)])
        put_bytes += sum(m.nbytes for m in maps)
        frames.release()
        progress(start + len(part), len(rows), "maps predicted")
    return put_bytes


def split_part(table: "pd.DataFrame", split: str, columns: Sequence[str]) -> Part:
    """The rows of a split by image, of `val:4` the first four, with a version that depends on these columns of them."""
    name, _, first = split.partition(":")
    rows = table[table.split == name].sort_values("image").reset_index(drop=True).head(int(first or len(table)))
    return Part(rows, digest(rows[list(columns)].to_numpy().tolist()))


def out_of_fold(table: "pd.DataFrame") -> dict[str, int]:
    """How many frames have a map by weights that were trained on them, how many by weights that left them out."""
    return {
        "trained_on_frames": int(table.map_seen.sum()),
        **{f"trained_on_{s}": int(table.map_seen[table.split == s].sum()) for s in ("train", "val", "test")},
        "out_of_fold_frames": int((table.map_source > 0).sum()),
    }


def _version(task: Task, table: "pd.DataFrame") -> str:
    """Of what the maps are by: the model's, or of the files."""
    if task.dataset(task.partition).maps:
        return digest(table.map_key.tolist())[:12]
    return _sources(task)[0].version


def top_share(saliency_map: "NDArray[Any]") -> float:
    """Share of the map's mass in the most salient tenth of its pixels; a tenth for a flat map."""
    import numpy as np

    values = np.sort(saliency_map.ravel().astype(np.float64))[::-1]
    total = values.sum()
    return float(values[: max(1, round(0.1 * values.size))].sum() / total) if total else 0.1


class SaliencyMaps(Stage):
    """A saliency map a frame (uint8, 255 where the picture is most salient), by content and model version."""

    name, over = "saliency_maps", "registry"
    reads = ("resized_frames", "saliency_model")
    group, kinds, checks = "saliency", frozenset({"pytorch"}), MAP_CHECKS
    fanned_out, points_into = True, ("saliency_maps",)
    onlookers = ("assets.frames.stages", "assets.saliency.checks", "assets.saliency.rgba")

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        trained = trainings_of(chosen_model(world, partition))
        frames = Need("resized_frames", partition, "frames")
        return [frames, *(Need("saliency_model", t.key) for t in trained)]

    def inputs(self, view: View) -> Mapping[str, Any]:
        maps = view.own("maps")
        rows = maps[["image", "split", "map_key"]].to_numpy().tolist()
        return {"maps": digest(rows), "count": len(rows), "model": chosen_model(view.world, view.partition)}

    def code(self, world: World, partition: str) -> Sequence[str]:
        from models.saliency.catalogue import code_modules

        if world.dataset(partition).maps:
            return ("assets.saliency.own_maps",)
        model = chosen_model(world, partition)
        trained = trainings_of(model)
        return code_modules(trained[0].variant if trained else model)

    def part(self, view: View, name: str) -> Part:
        """`maps`: every frame with the key of its map."""
        if name != "maps":
            return super().part(view, name)
        table = _keyed(view)
        return Part(table, digest(table[["image", "split", "map_key"]].to_numpy().tolist()))

    def complete(self, view: View) -> bool:
        """Whether each map is there."""
        index = view.shelf("saliency_maps").index()
        return all(key in index for key in view.own("maps").map_key)

    def predict(self, task: Task) -> tuple["pd.DataFrame", int, float]:
        """Predict, or read, the maps that the store does not have; returns the table, how many were made, and the seconds."""
        table, index = task.own("maps"), task.shelf("saliency_maps").index()
        todo = table[[k not in index for k in table.map_key]].drop_duplicates("map_key")
        began = time.monotonic()
        for place in sorted(set(todo.map_source)):
            rows: list[Row] = todo[todo.map_source == place].to_dict("records")
            chunk = read_chunk if task.dataset(task.partition).maps else predict_chunk
            task.fan_out(task, rows, chunk, task.progress)
        return table, len(todo), time.monotonic() - began

    def make(self, task: Task) -> None:
        import numpy as np

        from assets.frames.contact import contact_sheet, overlay
        from assets.saliency.statistics import MAPS, earlier_table, measure_maps
        from models.saliency.ideal import ideal_gain

        table, made, seconds = self.predict(task)
        version, maps = code_version("models.saliency.ideal"), task.shelf("saliency_maps")
        frames = task.given["resized_frames"]

        def measure(saliency_map: "NDArray[np.uint8]") -> tuple[float, ...]:
            ideal = ideal_gain(saliency_map, saliency_map)
            return top_share(saliency_map), ideal.gain_db, ideal.cost_db

        columns = ("top10_share", "ideal_gain_db", "ideal_cost_db")
        table, mean = measure_maps(maps, table, columns, measure, earlier_table(task.earlier, MAPS, version))
        task.writer.meta["statistics"] = version
        table.to_parquet(task.writer.path(MAPS), index=False)
        task.writer.meta["facts"] = {
            "frames": len(table),
            "predicted": made,
            "reused": len(table) - made,
            "model": str(task.unit.inputs["model"]),
            "version": _version(task, table),
            **out_of_fold(table),
            "frames_per_s": round(made / seconds, 1) if made else 0.0,
            "top10_share": round(float(table.top10_share.mean()), 4),
            "ideal_sw_gain_db": round(float(table.ideal_gain_db.mean()), 3),
            "ideal_plain_cost_db": round(float(table.ideal_cost_db.mean()), 3),
        }
        ranked = table.sort_values("top10_share", ascending=False)
        for shown, rows in (("most_peaked", ranked.head(6)), ("least_peaked", ranked.tail(6))):
            pairs = [
                (frames.array("resized_frames", r["key"]), maps.array(r["map_key"])) for r in rows.to_dict("records")
            ]
            task.writer.path(f"shown/{shown}.png").write_bytes(contact_sheet([overlay(p, m) for p, m in pairs]))
        if mean is not None:
            task.writer.path("shown/mean_map.png").write_bytes(
                contact_sheet([(mean / max(mean.max(), 1e-9) * 255).astype(np.uint8)], 1)
            )


def pack_chunk(bench: Bench, rows: Sequence[Row], progress: Progress) -> int:
    """Pack frames and their maps into PNGs in the store; returns their bytes."""
    from assets.saliency.rgba import pack_many

    frames, maps = bench.given["resized_frames"], bench.given["saliency_maps"]
    pairs = (
        (
            str(r["rgba_key"]),
            frames.array("resized_frames", str(r["key"])),
            maps.array("saliency_maps", str(r["map_key"])),
        )
        for r in rows
    )
    packed_bytes = 0
    for done, (key, data) in enumerate(pack_many(pairs, workers=bench.threads), 1):
        bench.shelf().put_object(key, ".png", data)
        packed_bytes += len(data)
        if done % SHARD_FRAMES == 0:
            frames.release()
        progress(done, len(rows), "frames packed")
    return packed_bytes


class RgbaFrames(Stage):
    """Frame and map as one thing, which codecs are trained and measured on: pairs that point into the shards of both, and
    for people one lossless PNG each, the map in the alpha channel."""

    name, over = "rgba_frames", "registry"
    reads = ("resized_frames", "saliency_maps")
    group, kinds, checks = "saliency", frozenset({"opencv", "png"}), RGBA_CHECKS
    fanned_out, points_into = True, ("resized_frames", "saliency_maps")
    onlookers = ("assets.frames.stages", "assets.saliency.checks")

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return [Need("resized_frames", partition, "frames"), Need("saliency_maps", partition, "maps")]

    def inputs(self, view: View) -> Mapping[str, Any]:
        rows = view.own("pngs")[["image", "split", "rgba_key"]].to_numpy().tolist()
        return {"frames": digest(rows), "count": len(rows)}

    def part(self, view: View, name: str) -> Part:
        """`train pictures`, `val:4 pairs` and so on: the rows of a split, or the first of it (`measured`: test where
        there is one, else val), and what a version depends on: the pictures alone, or each with its map. `pngs`: every
        frame with the key of its PNG."""
        if name == "pngs":
            table, code = view.given["saliency_maps"].part("maps"), code_version("assets.saliency.rgba")
            keys = [digest({"frame": f, "map": m, "code": code}) for f, m in zip(table.key, table.map_key, strict=True)]
            return Part(table.assign(rgba_key=keys), "")
        split, _, kind = name.partition(" ")
        if kind not in ("pictures", "pairs"):
            return super().part(view, name)
        frames = view.given["resized_frames"].part("frames")
        if split == "measured":
            split = view.dataset(view.partition).evaluation_split(frames)
        if kind == "pictures":
            return split_part(frames, split, ("image", "key"))
        return split_part(view.given["saliency_maps"].part("maps"), split, ("image", "key", "map_key"))

    def complete(self, view: View) -> bool:
        """Whether each PNG is there."""
        return set(view.own("pngs").rgba_key) <= view.shelf().object_keys()

    def make(self, task: Task) -> None:
        from assets.frames.contact import contact_sheet

        table, shelf = task.own("pngs"), task.shelf()
        frames, maps = task.given["resized_frames"], task.given["saliency_maps"]
        todo = table[~table.rgba_key.isin(shelf.object_keys())].drop_duplicates("rgba_key")
        began = time.monotonic()
        rows: list[Row] = todo.to_dict("records")
        packed_bytes = task.fan_out(task, rows, pack_chunk, task.progress)
        seconds = time.monotonic() - began
        pixels = [frames.array("resized_frames", k).shape for k in todo.key]
        table = table.assign(path=[shelf.object_path(k, ".png") for k in table.rgba_key])
        table.to_parquet(task.writer.path("rgba.parquet"), index=False)
        task.writer.meta["facts"] = {
            "frames": len(table),
            "packed": len(todo),
            "reused": len(table) - len(todo),
            "maps_by": f"{maps.facts['model']} {maps.facts['version']}",
            "bytes_in": sum(4 * height * width for height, width, _ in pixels),
            "bytes_out": packed_bytes,
            "frames_per_s": round(len(todo) / seconds, 1) if len(todo) else 0.0,
        }
        first = table.iloc[0]
        shown = [frames.array("resized_frames", first.key), maps.array("saliency_maps", first.map_key)]
        task.writer.path("shown/frame_and_alpha.png").write_bytes(contact_sheet(shown, 2))
