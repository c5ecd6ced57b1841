"""`rd_curves`: what has been measured of a sweep, put together."""

from collections.abc import Mapping, Sequence
from typing import Any

from assets.evaluation import pieces
from assets.evaluation.published import published_curves, published_rows
from assets.graph import Need, Part, Stage, Task, View, Waiting
from assets.store import digest
from assets.world import World

CURVES, PUBLISHED = "rd_curves.parquet", "published.parquet"


class RdCurves(Stage):
    """All points of a sweep, and their means over pictures and seeds with 95 % bootstrap intervals, a row for each point
    of each curve."""

    name, over = "rd_curves", "sweeps"
    reads = pieces.PIECES
    group, kinds = "evaluation", frozenset({"pandas", "parquet"})
    retried = False
    onlookers = (
        "assets.evaluation.checkpoints",
        "assets.saliency.names",
        "assets.saliency.pairs",
        "assets.evaluation.measure",
        "assets.saliency.condition",
        "assets.saliency.fixations",
    )

    def needs(self, world: World, partition: str) -> Sequence[Need]:
        return pieces.piece_needs(world, pieces.sweep_of(world, partition))

    def inputs(self, view: View) -> Mapping[str, Any]:
        found, missing = pieces.pieces_of(view.given)
        if not found:
            raise Waiting("rd_points", f"the experiments of {view.partition}")
        sweep = pieces.sweep_of(view.world, view.partition)
        published = [c for d in pieces.measured_on(sweep) for c in published_curves(view.home.config, d)]
        return {
            "sweep": view.partition,
            "measurements": len(found),
            "measurements to come": len(missing),
            "published": digest([[c.name, c.source, c.points] for c in published]),
        }

    def part(self, view: View, name: str) -> Part:
        """`points`: what is known of them are the keys of their pieces."""
        if name != "points":
            return super().part(view, name)
        inputs = view.keyed().inputs
        names = ("sweep", "published", "measurements to come", *pieces.PIECES)
        return Part(None, digest({n: inputs[n] for n in names if n in inputs}))

    def make(self, task: Task) -> None:
        import pandas as pd

        from assets.evaluation.plots import rd_plot
        from assets.evaluation.rate_distortion import rd_curves

        sweep, writer = pieces.sweep_of(task.world, task.partition), task.writer
        points = pieces.points_of(task.given)
        splits = dict(zip(points.dataset, points.split, strict=True))
        kept = (c for d in sorted(splits) for c in published_curves(task.home.config, d))
        others = published_rows(kept, splits)
        curves = rd_curves(points)
        curves = (pd.concat([curves, others], ignore_index=True) if len(others) else curves).assign(sweep=sweep.name)
        points.to_parquet(writer.path(pieces.POINTS), index=False)
        others.to_parquet(writer.path(PUBLISHED), index=False)
        curves.to_parquet(writer.path(CURVES), index=False)
        for metric in ("psnr_db", "sw_psnr_db"):
            writer.path(f"shown/rd_{metric}.png").write_bytes(rd_plot(curves, metric, title=task.partition))
        found, missing = pieces.pieces_of(task.given)
        writer.meta["pieces"] = [[piece.stage, piece.unit.digest] for piece in found]
        writer.meta["facts"] = {
            "points": len(curves),
            "pieces": len(found),
            "missing": f"{len(missing)}: {', '.join(missing)}" if missing else 0,
        }
        writer.meta["missing"] = missing
