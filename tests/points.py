"""Made-up points of curves: never shown as results."""

import numpy as np
import pandas as pd

LAMBDAS = (0.002, 0.006, 0.018, 0.05)


def make_points(
    arm: str = "uniform", maps: str = "none", *, codec: str = "bls2017", rate: float = 1.0, db: float = 0.0,
    n: int = 40, seeds: tuple[int, ...] = (0,), noise: float = 0.02, stream: int = 1, **columns: object,
) -> pd.DataFrame:  # fmt: skip
    """Pictures of different difficulty on parallel curves: bpp scaled by `rate`, ew_psnr raised by `db`."""
    difficulty, rng, classical = np.random.default_rng(0), np.random.default_rng(stream), arm == "classical"
    scale, level = np.exp(difficulty.normal(0, 0.4, n)), difficulty.normal(0, 2, n)
    rows = []
    for seed in (0,) if classical else seeds:
        for step, lmbda in enumerate(LAMBDAS):
            for i in range(n):
                bpp = 0.1 * 2**step * scale[i] * rate * np.exp(rng.normal(0, noise))
                psnr = 26 + 2.2 * step + level[i]
                peer = {"rate_name": "quality", "rate": 10.0 * step, "seed": None, "experiment": ""}
                own = {"rate_name": "lmbda", "rate": lmbda, "seed": seed, "experiment": f"{arm}{maps}{lmbda}{seed}"}
                own |= {"train_dataset": "made", "preset": "smoke"}
                rows.append(
                    {
                        "dataset": "made", "split": "test", "image": f"{i:03}", "codec": codec, "arm": arm,
                        "maps": maps, "width": 512, "height": 256, "bytes": round(bpp * 16384), "bpp": bpp,
                        "psnr_db": psnr, "ms_ssim": 1 - 10 ** (-psnr / 25), "sw_psnr_db": psnr + db,
                        "ew_psnr_db": psnr + db, **(peer if classical else own), **columns,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)
