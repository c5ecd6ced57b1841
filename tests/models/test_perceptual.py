"""Perceptual metrics of others fall with JPEG's quality, and know a picture itself; a judge that cannot be says why."""

import cv2
import numpy as np
import pytest
from scenes import scene

from assets.evaluation.bd_rate import to_decibel
from models.judges import JUDGED, JUDGES, Judge
from models.metrics import psnr_db
from models.perceptual import faded

#: a dozen packages more, and a program of the operating system
OUTSIDE = ("cvvdp", "butteraugli")
PERFECT = {"ssimulacra2": 100, "vmaf": 97, "cvvdp": 10, "butteraugli": 0}


@pytest.mark.parametrize("name", PERFECT)
@pytest.mark.filterwarnings("ignore")
def test_less_of_jpeg_is_worse(name: str) -> None:
    if name in OUTSIDE and (lacks := JUDGES[name].lacks()):
        pytest.skip(f"{lacks} (make test installs the other judges alone)")
    picture = np.asarray(scene(96, 128, 1), np.uint8)
    judge = JUDGES[name].opened(name)
    verdict, again = judge.sees(picture, []), judge.sees(picture, [], np.ones(picture.shape[:2]))
    shown = [cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, q])[1], 1) for q in (5, 30, 90)]
    metric, where = JUDGES[name].metrics
    values = [verdict(np.asarray(p, np.uint8))[metric.name] for p in (*shown, picture)]
    assert values[-1] == pytest.approx(PERFECT[name], abs=1)
    assert (np.diff(to_decibel(metric.name, np.array(values))) > 0).all()
    everywhere = again(np.asarray(shown[0], np.uint8))
    assert everywhere == {metric.name: values[0], where.name: values[0]} and judge.about


def test_an_error_that_is_faded_out_counts_as_eye_weighted_psnr_does() -> None:
    picture, rng = np.asarray(scene(96, 128, 2), np.uint8), np.random.default_rng(0)
    looked = cv2.GaussianBlur(rng.random((96, 128)) ** 8, (0, 0), 6)
    apart = []
    for sigma in (8, 16, 32):
        decoded = np.clip(np.round(picture + rng.normal(0, sigma, picture.shape)), 0, 255).astype(np.uint8)
        shown = faded(picture, decoded, looked)
        apart.append(psnr_db(picture, shown) - psnr_db(picture, decoded, looked))
    assert np.ptp(apart) < 0.03
    nowhere = np.zeros((96, 128))
    nowhere[:, :64] = 1
    assert (faded(picture, 255 - picture, nowhere) == np.hstack((255 - picture[:, :64], picture[:, 64:]))).all()


def test_what_is_missing_is_named_with_what_installs_it() -> None:
    judge = Judge((), "", "get it there", ("numpy", "python3", "no_such_package"))
    assert judge.lacks() == "no_such_package not installed: get it there"
    assert judge._replace(packages=("numpy",)).lacks() == ""
    assert len(JUDGED) == sum(len(j.metrics) for j in JUDGES.values())
