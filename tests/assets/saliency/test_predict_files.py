"""`fovea saliency`: files, folders, overlays, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from assets.saliency.predict_files import predict_files
from models.saliency.predict import load_model


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "b.jpg", "deep/a.png")):
        picture = rng.integers(60, 120, (48, 64 + 8 * i, 3)).astype(np.uint8)
        cv2.circle(picture, (20, 24), 6, (40, 220, 250), -1)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), picture)
    return folder


MODEL = load_model("spectral_residual")


def read(path: Path) -> np.ndarray:
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert found is not None, path
    return found


def test_one_file_to_one_png_that_looks_at_the_spot(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    assert predict_files([pictures / "a.png"], out) == ([out], [])
    grey = read(out)
    assert (grey.shape, grey.dtype, int(grey.max())) == ((48, 64), np.uint8, 255)
    y, x = np.unravel_index(int(grey.argmax()), (48, 64))
    assert abs(int(x) - 20) < 8 and abs(int(y) - 24) < 8


def test_a_folder_is_mirrored_and_overlays_keep_size_and_colour(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written, _ = predict_files([pictures], out, model=MODEL, overlay=True)
    assert sorted(p.relative_to(out).as_posix() for p in written) == ["a.png", "b.png", "deep/a.png"]
    assert read(out / "deep/a.png").shape == (48, 80, 3)
    bgr = read(out / "a.png").astype(int)
    assert np.abs(bgr[..., 2] - bgr[..., 0]).max() > 40  # heat has a colour, the picture under it is grey


def test_a_broken_file_is_named_and_the_others_are_written(pictures: Path, tmp_path: Path, installation: Path) -> None:
    from pipelines.cli import main

    (pictures / "broken.png").write_bytes((pictures / "a.png").read_bytes()[:500])
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["saliency", str(pictures), "-o", str(out), "--model", "center_prior"])
    assert done.exit_code == 1 and f"{pictures / 'broken.png'}: cut short" in done.output
    assert "1 of 4 files could not be done (above); the others are written" in done.output
    assert all(str(out / name) in done.stdout.splitlines() for name in ("a.png", "b.png", "deep/a.png"))
    one = CliRunner().invoke(main, ["saliency", str(pictures / "broken.png"), "-o", str(tmp_path / "one.png")])
    assert one.exit_code == 1 and one.output.startswith(f"fovea: {pictures / 'broken.png'}: cut short")
    assert (out / "deep/a.png").is_file() and not (out / "broken.png").exists()


def test_the_command_line(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cli import main

    monkeypatch.setenv("FOVEA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    run = CliRunner().invoke

    def saliency(model: str) -> tuple[int, str]:
        words = ["saliency", str(pictures / "a.png"), "-o", str(tmp_path / "map.png"), "--model", model]
        done = run(main, words)
        return done.exit_code, done.output

    code, said = saliency("center_prior")
    assert code == 0 and str(tmp_path / "map.png") in said
    code, said = saliency("center_prior")
    assert code == 0, said  # its own map is made again
    before = {path: path.read_bytes() for path in pictures.rglob("*.*")}
    for output in (pictures, pictures / "deep" / ".."):
        done = run(main, ["saliency", str(pictures), "-o", str(output), "--model", "center_prior"])
        assert done.exit_code == 1 and "would be written over" in done.output
    (tmp_path / "map.png").write_bytes(before[pictures / "a.png"])
    code, said = saliency("center_prior")
    assert code == 1 and "was not made by this command" in said
    assert {path: path.read_bytes() for path in pictures.rglob("*.*")} == before
    code, said = saliency("sam_vgg")
    assert code == 1 and "no weights at" in said
    code, said = saliency("sam_light")
    assert code == 1 and "unknown saliency model 'sam_light'" in said
    done = run(main, ["saliency-benchmark", "sample"])
    assert done.exit_code == 1 and "eyes were recorded on 'sample'" in done.output
    (tmp_path / "pickle.pkl").write_bytes(b"\x80\x04.")
    done = run(main, ["saliency-weights", "import", str(tmp_path / "pickle.pkl")])
    assert done.exit_code == 1 and "HDF5" in done.output
    assert not (tmp_path / "home/weights/sam_vgg.safetensors").exists()
