"""`saliency_maps` and `rgba_frames`: where people look, and both in one PNG."""

import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.chain import Chain, Progress, Unit
from assets.frames.stages import SHARD_FRAMES, resized_table
from assets.store import UnitWriter, digest
from assets.versions import code_version
from models.experiments import DEFAULT_SALIENCY

MAPS = "maps.parquet"


def map_keys(chain: Chain, name: str, model: str = DEFAULT_SALIENCY) -> pd.DataFrame:
    """resized_table with `map_key`, the key of each frame's map by this model."""
    from models.saliency.catalogue import code_modules, model_version

    table = resized_table(chain, name)
    version, code = model_version(model), code_version(*code_modules(model))
    keys = [digest({"frame": k, "model": model, "version": version, "code": code}) for k in table.key]
    return table.assign(map_key=keys)


def ensure_maps(chain: Chain, name: str, model: str, progress: Progress) -> tuple[pd.DataFrame, int, float]:
    """Predict the maps that the store does not have; returns the table, how many were made, and the seconds."""
    table = map_keys(chain, name, model)
    index = chain.store.index("saliency_maps")
    todo = table[[k not in index for k in table.map_key]].drop_duplicates("map_key")
    began = time.monotonic()
    if len(todo):
        from models.saliency.predict import load_model

        predictor = load_model(model, threads=chain.threads)
        for start in range(0, len(todo), SHARD_FRAMES):
            part = todo.iloc[start : start + SHARD_FRAMES]
            maps = predictor.predict([chain.store.array("resized_frames", k) for k in part.key])
            chain.store.put_shard("saliency_maps", list(zip(part.map_key, maps, strict=True)))
            progress(start + len(part), len(todo), "maps predicted")
        chain.store.index("saliency_maps")
    return table, len(todo), time.monotonic() - began


def top_share(saliency_map: NDArray[np.uint8], part: float = 0.1) -> float:
    """Share of the map's mass in its most salient pixels; `part` (of all pixels) for a flat map."""
    values = np.sort(saliency_map.ravel().astype(np.float64))[::-1]
    total = values.sum()
    return float(values[: max(1, round(part * values.size))].sum() / total) if total else part


class SaliencyMaps:
    """A map a frame (uint8, 255 where the picture is most salient) from the default saliency model."""

    name = "saliency_maps"

    def unit(self, chain: Chain, partition: str) -> Unit:
        table = map_keys(chain, partition)
        rows = table[["image", "split", "map_key"]].to_numpy().tolist()
        return Unit(
            self.name, partition, {"maps": digest(rows), "count": len(rows), "model": DEFAULT_SALIENCY}
        )

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.evaluation.ideal import ideal_gain
        from assets.frames.contact import contact_sheet, overlay

        table, made, seconds = ensure_maps(chain, unit.partition, DEFAULT_SALIENCY, progress)
        maps = [chain.store.array(self.name, k) for k in table.map_key]
        table["top10_share"] = [top_share(m) for m in maps]
        gains = [ideal_gain(m, m) for m in maps]
        table["ideal_gain_db"] = [g.gain_db for g in gains]
        table["ideal_cost_db"] = [g.cost_db for g in gains]
        table.to_parquet(writer.path(MAPS), index=False)
        writer.meta["facts"] = {
            "frames": len(table),
            "predicted": made,
            "reused": len(table) - made,
            "model": DEFAULT_SALIENCY,
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
        sizes = {m.shape for m in maps}
        if len(sizes) == 1:
            mean = np.mean([m.astype(np.float32) for m in maps], 0)
            writer.path("shown/mean_map.png").write_bytes(
                contact_sheet([(mean / max(mean.max(), 1e-9) * 255).astype(np.uint8)], 1)
            )


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

    def make(self, chain: Chain, unit: Unit, writer: UnitWriter, progress: Progress) -> None:
        from assets.frames.contact import contact_sheet
        from assets.saliency.rgba import pack_many

        table = self._table(chain, unit.partition)
        there = chain.store.object_keys(self.name)
        todo = table[~table.rgba_key.isin(there)].drop_duplicates("rgba_key")
        began = time.monotonic()
        pairs = (
            (
                r["rgba_key"],
                chain.store.array("resized_frames", r["key"]),
                chain.store.array("saliency_maps", r["map_key"]),
            )
            for r in todo.to_dict("records")
        )
        packed_bytes = 0
        for done, (key, data) in enumerate(pack_many(pairs, workers=chain.threads), 1):
            chain.store.put_object(self.name, key, ".png", data)
            packed_bytes += len(data)
            progress(done, len(todo), "frames packed")
        seconds = time.monotonic() - began
        table["path"] = [str(chain.store.object_path(self.name, k, ".png")) for k in table.rgba_key]
        table.to_parquet(writer.path("rgba.parquet"), index=False)
        writer.meta["facts"] = {
            "frames": len(table),
            "packed": len(todo),
            "reused": len(table) - len(todo),
            "bytes_written": packed_bytes,
            "frames_per_s": round(len(todo) / seconds, 1) if len(todo) else 0.0,
        }
        first = table.iloc[0]
        shown = [
            chain.store.array("resized_frames", first.key),
            chain.store.array("saliency_maps", first.map_key),
        ]
        writer.path("shown/frame_and_alpha.png").write_bytes(contact_sheet(shown, 2))
