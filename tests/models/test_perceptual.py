"""Perceptual metrics of others fall with JPEG's quality, and know a picture itself; a judge that cannot be says why."""

import cv2
import numpy as np
import pytest
from scenes import scene

from assets.evaluation.bd_rate import to_decibel
from models.judges import JUDGED, JUDGES, Judge

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
    verdict, again = judge.sees(picture, []), judge.sees(picture, [])
    shown = [cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, q])[1], 1) for q in (5, 30, 90)]
    (metric,) = JUDGES[name].metrics
    values = [verdict(np.asarray(p, np.uint8))[metric.name] for p in (*shown, picture)]
    assert values[-1] == pytest.approx(PERFECT[name], abs=1)
    assert (np.diff(to_decibel(metric.name, np.array(values))) > 0).all()
    assert again(np.asarray(shown[0], np.uint8))[metric.name] == values[0] and judge.about


def test_what_is_missing_is_named_with_what_installs_it() -> None:
    judge = Judge((), "", "get it there", ("numpy", "python3", "no_such_package"))
    assert judge.lacks() == "no_such_package not installed: get it there"
    assert judge._replace(packages=("numpy",)).lacks() == ""
    assert len(JUDGED) == sum(len(j.metrics) for j in JUDGES.values())
