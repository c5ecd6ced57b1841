"""What each setting of an arm gains where people look, and what it costs in plain PSNR: the table of results/arms_osie.md.

    python results/trade.py osie_val.trade trade.png

Read is FOVEA_HOME/tables/bd_rates.parquet. The best of several settings flatters on the pictures that it was chosen on: choose
on validation pictures.
"""

import matplotlib.pyplot as plt
import pandas as pd

from assets.evaluation.pieces import sweep_of
from assets.stages import open_chain
from models.sweeps import Sweep
from pipelines.terminal import script


def trade(rates: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """A row for each setting of each arm, maps and metric: span, γ, BD-rate against `uniform` with its interval, in per
    cent."""
    rows = rates[(rates["dataset"] == sweep.dataset) & (rates["sweep"] == sweep.name)]
    rows = rows[(rows["anchor_arm"] == "uniform") & (rows["method"] == "pchip")]
    settings = pd.DataFrame(
        [(e.codec, e.arm, e.maps, e.variant, e.span, e.gamma) for e in sweep.experiments],
        columns=["codec", "test_arm", "maps", "variant", "span", "gamma"],
    ).drop_duplicates()
    columns = ["bd_rate_percent", "ci_low", "ci_high"]
    return rows.merge(settings)[["codec", "test_arm", "maps", "span", "gamma", "metric", *columns]]


def main(key: str, target: str) -> None:
    """Print the table of a sweep and plot gain against cost."""
    chain = open_chain()
    table = trade(pd.read_parquet(chain.home.tables / "bd_rates.parquet"), sweep_of(chain.world, key))
    names = ["codec", "test_arm", "maps", "gamma", "span"]
    wide = table.pivot(index=names, columns="metric", values="bd_rate_percent").sort_index()
    text = table["bd_rate_percent"].map("{:+.1f} % ".format)
    text += table.apply(lambda r: f"[{r['ci_low']:+.1f}, {r['ci_high']:+.1f}]", axis=1)
    metric = next(m for m in ("ew_psnr_db", "sw_psnr_db") if m in wide)
    print(table.assign(text=text).pivot(index=names, columns="metric", values="text")[[metric, "psnr_db"]].to_string())
    _, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for (codec, arm, maps, gamma), line in wide.groupby(names[:-1]):
        label = f"{codec} {arm}, {maps} maps, γ {gamma:g}"
        axes.plot(line["psnr_db"], line[metric], "o-" if maps == "predicted" else "o--", label=label)
        for (*_, span), row in line.iterrows():
            axes.annotate(f"span {span:g}", (row["psnr_db"], row[metric]), (6, 4), textcoords="offset points")
    axes.set_xlabel("BD-rate at equal PSNR, % (right: costs bits everywhere)")
    axes.set_ylabel(f"BD-rate at equal {metric.removesuffix('_db')}, % (down: saves bits)")
    axes.legend()
    plt.savefig(target, dpi=120)


if __name__ == "__main__":
    script(main, __doc__)
