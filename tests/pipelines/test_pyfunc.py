import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trainings import untrained

from models.codecs.base import CodecConfig
from models.codecs.catalogue import load_codec, save_codec
from models.errors import FoveaError
from pipelines.commands.options import codec_named
from pipelines.mlflow_model import folder_digest, save_model
from pipelines.mlflow_tracking import MlflowTracker

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning"
    ),
]


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    config = CodecConfig(codec="bls2017", n=8, m=12, mechanism="gain", span=1.0, lmbda=(0.0032, 0.0128))
    save_codec(untrained(config), folder)
    return folder


@pytest.fixture(scope="module")
def picture():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8), (9, 9), 3)


def png(array):
    return cv2.imencode(".png", array)[1].tobytes()


def test_registered_loaded_and_used(codec, picture, tmp_path, monkeypatch):
    import mlflow.pyfunc

    tracker = MlflowTracker(tmp_path / "mlflow", "")
    run = tracker.run(experiment="fovea-sample", name="arm", key="k")
    address = tracker.register_model(run, folder=codec, name="fovea-bls2017", alias="champion")
    assert address == "models:/fovea-bls2017@champion"
    client = tracker.store.connect()
    for about in ("of 4 pictures", "of 6 pictures"):
        again = tracker.register_model(run, folder=codec, name="fovea-bls2017", about=about)
        assert again == "models:/fovea-bls2017/1"
        described = client.get_registered_model("fovea-bls2017"), client.get_model_version("fovea-bls2017", "1")
        assert [d.description for d in described] == [about, about]
    version = client.get_model_version_by_alias("fovea-bls2017", "champion")
    assert version.run_id == run.run_id and len(client.search_model_versions("name = 'fovea-bls2017'")) == 1
    names = {Path(a.path).name for a in client.list_artifacts(run.run_id, "model/artifacts/codec")}
    assert names == {"weights.safetensors", "codec.json"}
    tracker.close()
    monkeypatch.setenv("FOVEA_HOME", str(tmp_path))
    for name in (address, "models:/fovea-bls2017/1"):
        assert codec_named(name).identity() == load_codec(codec).identity()
    with pytest.raises(FoveaError, match=r"models:/fovea-bls2017/7: .*7"):
        codec_named("models:/fovea-bls2017/7")
    with pytest.raises(FoveaError, match=r"models:/NAME/VERSION or"):
        codec_named("models:/fovea-bls2017")

    model = mlflow.pyfunc.load_model(f"{tmp_path}/mlflow/artifacts/fovea-sample/{run.run_id}/artifacts/model")
    map_ = np.zeros(picture.shape[:2], np.uint8)
    map_[10:30, 10:40] = 255
    rows = pd.DataFrame({"image": [png(picture[..., ::-1])] * 2, "saliency_map": [png(map_), png(map_ // 2)]})
    packed = model.predict(rows)
    own = load_codec(codec)
    assert packed["fov"][0] == own.encode(picture, saliency_map=map_).data and packed["fov"][0] != packed["fov"][1]
    assert packed["bpp"][0] == 8 * len(packed["fov"][0]) / (45 * 70)
    unpacked = model.predict(packed[["fov"]])
    shown = cv2.imdecode(np.frombuffer(unpacked["image"][0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(shown, own.encode(picture, saliency_map=map_).reconstruction)
    richer = model.predict(rows, params={"lmbda": 0.0128})
    assert richer["fov"][0] == own.encode(picture, saliency_map=map_, rate=0.0128).data

    with pytest.raises(Exception, match="image"):
        model.predict(pd.DataFrame({"other": [b"x"]}))
    cmyk = io.BytesIO()
    Image.fromarray(np.zeros((45, 70, 4), np.uint8), "CMYK").save(cmyk, "JPEG")
    for data in (b"no picture", cmyk.getvalue()):
        with pytest.raises(FoveaError, match="row 0: image"):
            model.predict(pd.DataFrame({"image": [data], "saliency_map": [png(map_)]}))


def test_a_model_brings_its_own_code_and_no_pickle(picture, tmp_path):
    import mlflow

    plain = untrained(CodecConfig(codec="bls2017", n=8, m=12))
    save_codec(plain, tmp_path / "plain")
    (tmp_path / "plain/training.json").write_text(json.dumps({"record": {"lmbda": [0.0021]}}))
    target = tmp_path / "model"
    save_model(tmp_path / "plain", target)
    assert mlflow.models.get_model_info(str(target)).signature.params.params[0].default == 0.0021, (
        "what it was trained for"
    )
    assert not [p for p in target.rglob("*") if p.suffix in (".pkl", ".pickle")]
    assert (target / "pyfunc_codec.py").is_file() and not (target / "code" / "models" / "training").exists()
    (tmp_path / "picture.png").write_bytes(png(picture[..., ::-1]))
    # Elsewhere than the project, with the installed Fovea hidden: the modules come from the model.
    code = f"""
        import sys, warnings
        warnings.simplefilter("ignore")
        sys.path[:] = [p for p in sys.path if "__editable__" not in p and p.rstrip("/") != {str(ROOT)!r}]
        sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
        from pathlib import Path
        import pandas as pd, mlflow.pyfunc
        model = mlflow.pyfunc.load_model("model")
        import models
        packed = model.predict(pd.DataFrame({{"image": [Path("picture.png").read_bytes()]}}))
        Path("out.fov").write_bytes(packed["fov"][0])
        Path("where").write_text(models.__file__ or models.__path__[0])
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "where").read_text().startswith(str(target))
    assert (tmp_path / "out.fov").read_bytes() == plain.encode(picture).data


def test_the_digest_names_contents(codec, tmp_path):
    before = folder_digest(codec)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in codec.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert folder_digest(copy) == before
    (copy / "codec.json").write_text("{}")
    assert folder_digest(copy) != before
