import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image
from points import make_points

from assets.evaluation import plots
from assets.evaluation.bd_rate import BD_RATE_COLUMNS
from assets.evaluation.palette import ARM_COLOURS, Cast, Look, cast_of, look
from assets.evaluation.rate_distortion import concat_points, rd_curves
from assets.training.plots import training_curves
from models.arms import ARMS


def made_curves() -> pd.DataFrame:
    """Without eye movements."""
    arms = [make_points(n=3), make_points("saliency_gain", "center", rate=0.8, n=3)]
    jpeg = make_points("classical", codec="jpeg", rate=1.5, n=3)
    return rd_curves(concat_points([p.drop(columns="ew_psnr_db") for p in (*arms, jpeg)]), resamples=50)


def made_rates() -> pd.DataFrame:
    base = dict.fromkeys(BD_RATE_COLUMNS, "") | {"codec": "bls2017", "anchor_arm": "uniform", "method": "pchip"}
    base |= {"test_arm": "saliency_gain"}
    values = [("predicted", -9.0, -12.0, -6.0), ("center", -2.0, -4.0, 1.0), ("shuffled", np.nan, np.nan, np.nan)]
    said = [dict(zip(("maps", "bd_rate_percent", "ci_low", "ci_high"), row, strict=True)) for row in values]
    return pd.DataFrame([base | {"metric": m} | row for row in said for m in ("ew_psnr_db", "psnr_db")])


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(picture: np.ndarray, name: str) -> bool:
    wanted = np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(picture.astype(int) - wanted).max(axis=2) < 12).sum() > 20)


def test_rd_plot_draws_each_arm_in_its_colour() -> None:
    for metric in ("psnr_db", "ms_ssim"):
        picture = pixels(plots.rd_plot(made_curves(), metric, title="made"))
        assert min(picture.shape[:2]) > 300
        assert has_colour(picture, ARM_COLOURS["uniform"]) and has_colour(picture, ARM_COLOURS["saliency_gain"])
        assert not has_colour(picture, ARM_COLOURS["saliency_sft"])


def test_forest_shows_what_can_be_shown() -> None:
    assert has_colour(pixels(plots.forest_plot(made_rates(), title="made")), ARM_COLOURS["saliency_gain"])
    one = plots.forest_plot(made_rates().iloc[:2], "psnr_db")
    assert pixels(one).shape[0] < pixels(plots.forest_plot(made_rates(), "psnr_db")).shape[0]


def test_nothing_to_show_is_a_picture_that_says_so() -> None:
    empty = pixels(plots.rd_plot(made_curves(), "ew_psnr_db", title="made"))
    assert empty.std() > 0 and pixels(plots.forest_plot(made_rates(), "ms_ssim")).std() > 0


def test_plots_are_the_same_from_many_threads() -> None:
    curves = made_curves()
    alone = plots.rd_plot(curves, title="made")
    with ThreadPoolExecutor(4) as pool:
        assert all(png == alone for png in pool.map(lambda _: plots.rd_plot(curves, title="made"), range(4)))


def look_of(codec: str, arm: str, maps: str, variant: str = "", codecs: tuple[str, ...] = ()) -> Look:
    return look({"codec": codec, "arm": arm, "maps": maps, "variant": variant}, Cast(codecs))


def test_each_arm_and_control_looks_different() -> None:
    looks = [look_of("bls2017", arm, maps) for arm in ARMS for maps in ("predicted", "center", "shuffled", "oracle")]
    assert len({(one.colour, one.dash) for one in looks}) == len(looks)
    classical = [look_of(c, "classical", "none") for c in ("jpeg", "webp", "avif", "jpegxl")]
    assert len({(one.colour, one.dash) for one in classical}) == 4 and all(one.classical for one in classical)
    assert look_of("a", "uniform", "none", codecs=("a", "b")).label == "a uniform"
    assert look_of("a", "weighted", "center", "gamma=1", codecs=("a",)).label == "weighted@center gamma=1"


def test_variants_of_an_arm_look_different_and_the_plain_one_as_its_arm() -> None:
    trained = "lr=0.001,steps=3000"
    arms = [("uniform", v) for v in (f"{trained},dilation=2", trained, f"{trained},l1_ms_ssim")]
    arms += [("weighted", v) for v in ("", "alpha=0.2", "alpha=0.4")]
    codecs = ("bls2017", "light")
    rows = [{"codec": codec, "arm": arm, "maps": "none", "variant": v} for codec in codecs for arm, v in arms]
    jpeg = {"codec": "jpeg", "arm": "classical", "maps": "none", "variant": ""}
    cast = cast_of(pd.DataFrame([*rows, jpeg]))
    looks = [look(row, cast) for row in rows]
    assert len({(one.colour, one.marker) for one in looks}) == len(rows)
    plain = [row["variant"] in ("", trained) for row in rows]
    assert [one.colour == ARM_COLOURS[row["arm"]] for row, one in zip(rows, looks, strict=True)] == plain
    assert cast_of(pd.DataFrame(rows[1:2])).variants == [], "a single one is the plain one"
    shipped = {"codec": "other", "arm": "uniform", "maps": "none", "variant": "as shipped"}
    own = cast_of(pd.DataFrame([rows[1], shipped]))
    assert look(shipped, own).colour == ARM_COLOURS["uniform"], "another codec's arms make no variants of these"


def test_training_curves_and_a_picture_that_says_that_there_are_none() -> None:
    history = [{"step": i, "loss": 10.0 / (i + 1), "bpp": 0.5, "psnr_db": 20.0 + i} for i in range(20)]
    history += [{"step": 10, "val_psnr_db": 25.0, "val_bpp": 0.4}]
    drawn = pixels(training_curves(history, title="run"))
    assert (drawn == (0xD5, 0x5E, 0x00)).all(axis=2).any() and pixels(training_curves([])).std() > 0
