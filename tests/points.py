"""Made-up points of curves: never shown as results."""

import numpy as np
import pandas as pd

LAMBDAS = (0.002, 0.006, 0.018, 0.05)


def make_points(
    arm: str = "uniform", maps: str = "none", *, codec: str = "bls2017", rate: float = 1.0, db: float = 0.0, n: int = 40,
    seeds: tuple[int, ...] = (0,), noise: float = 0.02, stream: int = 1, curve_db: float = 2.2, **columns: object,
) -> pd.DataFrame:  # fmt: skip
    """Pictures of different difficulty on parallel curves: bpp scaled by `rate`, ew_psnr raised by `db`."""
    difficulty, rng, classical = np.random.default_rng(0), np.random.default_rng(stream), arm == "classical"
    scale, level = np.exp(difficulty.normal(0, 0.4, n)), difficulty.normal(0, 2, n)
    rows = []
    for seed in (0,) if classical else seeds:
        for step, lmbda in enumerate(LAMBDAS):
            for i in range(n):
                bpp = 0.1 * 2**step * scale[i] * rate * np.exp(rng.normal(0, noise))
                psnr = 26 + curve_db * step + level[i]
                rows.append(
                    {
                        "dataset": "made", "split": "test", "image": f"{i:03}", "codec": codec, "arm": arm, "maps": maps,
                        "train_dataset": "" if classical else "made", "preset": "" if classical else "smoke",
                        "rate_name": "quality" if classical else "lmbda", "rate": 10.0 * step if classical else lmbda,
                        "seed": None if classical else seed, "experiment": "" if classical else f"{arm}{maps}{lmbda}{seed}",
                        "bytes": round(bpp * 16384), "width": 512, "height": 256, "bpp": bpp, "psnr_db": psnr,
                        "ms_ssim": 1 - 10 ** (-psnr / 25), "sw_psnr_db": psnr + db, "ew_psnr_db": psnr + db, **columns,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)
