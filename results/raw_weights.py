"""What weights whose mean is not 1 do: the table and the plot of results/codecs_camvid.md.

    python results/raw_weights.py camvid.source results/source_camvid.png

The source's recipe multiplies the squared error by c·(α + s^γ) without dividing by the mean. λ·w has the mean
λ·mean(w), so that training spends as many bits as λ·mean(w) asks for: another λ, on the same curve. Read are
FOVEA_HOME/tables/rd_curves.parquet and, for the mean weight, the maps of the training pictures.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from assets.chain import Chain
from assets.evaluation.palette import ARM_COLOURS
from assets.evaluation.pieces import sweep_of
from assets.saliency.pairs import open_pairs
from assets.stages import open_chain
from models.saliency.weighting import weight_means
from pipelines.terminal import script


def mean_weight(chain: Chain, key: str) -> float:
    """c·mean(α + s^γ) over the training pictures of a sweep's `weighted_raw`."""
    entry = next(e for e in sweep_of(chain.world, key).experiments if e.arm == "weighted_raw")
    maps = open_pairs(chain, entry.dataset, "train", maps=entry.maps).maps
    return entry.scale * float(np.mean(weight_means(maps or [], alpha=entry.alpha, gamma=entry.gamma)))


def shifts(uniform: pd.DataFrame, raw: pd.DataFrame, mean: float) -> pd.DataFrame:
    """For each λ of `weighted_raw` how far its bits moved, and its distance in dB of PSNR from uniform's curve at equal rate
    (linear over log-rate; NaN outside of uniform's rates)."""
    both = raw.merge(uniform, on="rate", suffixes=("", "_uniform")).sort_values("rate")
    by_rate = uniform.sort_values("bpp")
    there = np.interp(np.log(both["bpp"]), np.log(by_rate["bpp"]), by_rate["psnr_db"], left=np.nan, right=np.nan)
    return both[["rate", "bpp_uniform", "bpp", "psnr_db", "psnr_db_uniform"]].assign(
        equivalent_lmbda=mean * both["rate"],
        bits_percent=100 * (both["bpp"] / both["bpp_uniform"] - 1),
        off_curve_db=both["psnr_db"] - there,
    )


def main(key: str, target: str) -> None:
    """Print the table of a sweep and write its plot."""
    chain = open_chain()
    dataset, _, sweep = key.partition(".")
    curves = pd.read_parquet(chain.home.tables / "rd_curves.parquet")
    curves = curves[(curves["sweep"] == sweep) & (curves["dataset"] == dataset)]
    uniform, raw = (curves[curves["arm"] == arm].sort_values("bpp") for arm in ("uniform", "weighted_raw"))
    mean = mean_weight(chain, key)
    table = shifts(uniform, raw, mean)
    print(f"mean weight {mean:.3f}")
    print(table.round(4).to_string(index=False))
    _, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.semilogx(uniform["bpp"], uniform["psnr_db"], "o-", color=ARM_COLOURS["uniform"], label="uniform")
    axes.semilogx(raw["bpp"], raw["psnr_db"], "D", color=ARM_COLOURS["weighted_raw"], label="weighted_raw")
    for row in table.to_dict("records"):
        start, end = ((row[f"bpp{side}"], row[f"psnr_db{side}"]) for side in ("_uniform", ""))
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "connectionstyle": "arc3,rad=0.25"})
        text = f"λ {row['rate']:g} × {mean:.2f} = {row['equivalent_lmbda']:.2g}"
        axes.annotate(text, end, (-8, 9), textcoords="offset points", ha="right", fontsize=8)
    axes.set_xlabel("rate (bits per pixel, bytes of the real file)")
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(f"{key}: arrows join equal nominal λ; nominal λ × mean weight = equivalent λ", fontsize=9)
    axes.margins(x=0.2)
    axes.legend()
    plt.savefig(target, dpi=120)


if __name__ == "__main__":
    script(main, __doc__)
