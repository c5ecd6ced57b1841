"""Import and download of SAM's published weights: what is taken, what is refused, and that nothing is executed."""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sam_files import layout_of, write_weights
from servers.cityscapes_site import CityscapesSite, Fault

from models.errors import FoveaError
from models.network import Manner, Policy
from models.saliency import sam_import
from models.saliency.sam_import import convert, download, fetch_weights, read_weights

Edit = Callable[[list[dict]], object]


def hollow(variant: str, path: Path, edit: Edit | None = None) -> Path:
    layout = layout_of(variant)
    if edit is not None:
        edit(layout)
    return write_weights(path, layout)


def layer(layout: list[dict], name: str) -> dict:
    return next(entry for entry in layout if entry["name"] == name)


# --- Layout ---


def test_numbered_layers_go_by_order_not_by_name(tmp_path: Path) -> None:
    def renumber(layout: list[dict]) -> None:
        layer(layout, "attentiveconvlstm_1")["name"] = "attentiveconvlstm_7"
        layer(layout, "atrousconvolution2d_1")["name"] = "atrousconvolution2d_9"
        for weight in layer(layout, "convolution2d_12")["weights"]:
            weight["name"] = weight["name"].replace("12", "44")

    assert read_weights(hollow("vgg", tmp_path / "w.pkl", renumber))[0] == "sam_vgg"


def without(name: str) -> Edit:
    return lambda layout: layout.remove(layer(layout, name))


def changed(name: str, index: int, **change: object) -> Edit:
    return lambda layout: layer(layout, name)["weights"][index].update(change)


def swapped(layout: list[dict]) -> None:
    a, b = (layout.index(layer(layout, name)) for name in ("block5_conv1", "block5_conv2"))
    layout[a], layout[b] = layout[b], layout[a]


DENSE = {"name": "dense_1", "weights": [{"name": "dense_1_W", "shape": [2, 2]}]}


@pytest.mark.parametrize(
    ("variant", "edit", "message"),
    [
        ("vgg", without("block3_conv2"), r"layer 6 of 19, block3_conv2 \(in the file: block3_conv3\)"),
        ("vgg", without("attentiveconvlstm_1"), "layer 14 of 19, attentiveconvlstm .*learningprior_1.* with 1 arrays, not 21"),
        ("vgg", without("learningprior_2"), r"layer 17 of 19, learningprior 2 \(in the file: atrousconvolution2d_2\)"),
        ("vgg", without("convolution2d_12"), r"layer 19 of 19.*\(in the file: nothing\)"),
        ("resnet", without("bn4c_branch2b"), r"bn4c_branch2b \(in the file: res4c_branch2c\)"),
        ("resnet", without("convolution2d_1"), "layer 107 of 113, convolution2d .* with 21 arrays, not 2"),
        ("vgg", changed("block4_conv1", 0, shape=[512, 256, 5, 5]), "block4_conv1.*is 512×256×5×5, not 512×256×3×3"),
        ("vgg", changed("attentiveconvlstm_1", 8, shape=[512, 3]), "convolution2d_5_b .*is 512×3, not"),
        ("vgg", changed("learningprior_1", 0, shape=[32]), "learningprior 1 .*is 32, not 64"),
        ("vgg", changed("block2_conv2", 1, dtype="S10"), "block2_conv2_b .b. holds .S10"),
        ("vgg", changed("block2_conv2", 1, dtype="int32"), "block2_conv2_b .b. holds int32"),
        ("vgg", lambda layout: layout.append(DENSE), "dense_1 is one too many"),
        ("vgg", swapped, r"block5_conv1 \(in the file: block5_conv2\): another layer"),
        ("vgg", lambda layout: layout.__setitem__(slice(None), [DENSE]), "neither SAM-VGG"),
    ],
)  # fmt: skip
def test_another_layout_is_refused_by_layer(tmp_path: Path, variant: str, edit: Edit, message: str) -> None:
    with pytest.raises(FoveaError, match=message):
        convert(hollow(variant, tmp_path / "w.pkl", edit), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_that_cannot_be_weights_are_refused(tmp_path: Path) -> None:
    path = hollow("resnet", tmp_path / "w.pkl")
    with h5py.File(path, "r+") as file:
        file["bn2a_branch2a/bn2a_branch2a_running_std"][3] = -1
    with pytest.raises(FoveaError, match=r"bn2a_branch2a.* negative variance"):
        read_weights(path)
    with h5py.File(path, "r+") as file:
        file["conv1/conv1_b"][0] = np.nan
    with pytest.raises(FoveaError, match=r"conv1_b .* holds NaN"):
        read_weights(path)


# --- Nothing is executed ---


class Planted:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_real_pickle_is_refused_unopened(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "executed"
    path = tmp_path / "sam-vgg_salicon_weights.pkl"
    path.write_bytes(pickle.dumps({"weights": Planted(trap)}, protocol))
    with pytest.raises(FoveaError, match=r"pkl: a pickle, which is never loaded .* are HDF5"):
        convert(path, tmp_path / "out")
    assert not trap.exists() and not (tmp_path / "out").exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap would have snapped


def test_a_pickle_inside_hdf5_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    path = hollow("vgg", tmp_path / "w.pkl")
    with h5py.File(path, "r+") as file:
        del file["block1_conv1/block1_conv1_W"]
        file["block1_conv1/block1_conv1_W"] = np.void(pickle.dumps(Planted(trap)))
    with pytest.raises(FoveaError, match=r"block1_conv1_W .* not numbers"):
        convert(path, tmp_path / "out")
    assert not trap.exists()


@pytest.mark.parametrize("kind", ["soft", "external", "raw"])
def test_links_out_of_the_layout_are_refused(tmp_path: Path, kind: str) -> None:
    path = hollow("vgg", tmp_path / "w.pkl")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(256))
    with h5py.File(path, "r+") as file:
        group = file["block1_conv1"]
        del group["block1_conv1_b"]
        if kind == "soft":
            group["block1_conv1_b"] = h5py.SoftLink("/block1_conv2/block1_conv2_b")
        elif kind == "external":
            group["block1_conv1_b"] = h5py.ExternalLink("other.h5", "/x")
        else:
            group.create_dataset("block1_conv1_b", (64,), "float32", external=[(str(secret), 0, 256)])
    with pytest.raises(FoveaError, match=r"block1_conv1: block1_conv1_b is (a link|not a plain array)"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "HTML page"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"something else", "not HDF5"),
        (sam_import.HDF5_SIGNATURE + b"cut off", "damaged or cut off"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(FoveaError, match=message):
        convert(path, tmp_path)
    with pytest.raises(FoveaError, match="cannot be read"):
        convert(tmp_path / "absent.pkl", tmp_path)
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(FoveaError, match="layer_names"):
        read_weights(path)


# --- Download ---

BODY = sam_import.HDF5_SIGNATURE + bytes(range(256)) * 2000
NAME = "sam-vgg_salicon_weights.pkl"
HASTY = Manner(Policy(attempts=2, progress_bytes=1 << 30), sleep=lambda _: None)


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CityscapesSite]:
    """Serves BODY at /NAME; the network's other faults are those of tests/assets/frames/test_cityscapes.py."""
    file = tmp_path_factory.mktemp("site") / NAME
    file.write_bytes(BODY)
    with CityscapesSite({1: file}, anonymous=True) as site:
        yield site


def test_download_goes_on_where_the_connection_broke(site: CityscapesSite, tmp_path: Path) -> None:
    url, path, digest = f"{site.url}/{NAME}", tmp_path / "w.pkl", hashlib.sha256(BODY).hexdigest()
    site.fail(f"/{NAME}", Fault(drop_after=100_000), Fault(drop_after=50_000))
    with pytest.raises(FoveaError, match=r"2 tries .* bytes that are here are kept"):
        download(url, path, digest, HASTY)
    assert not path.exists()
    kept = path.with_name("w.pkl.part").stat().st_size
    assert download(url, path, digest, HASTY).read_bytes() == BODY and site.requests[-1][2:] == (f"bytes={kept}-", 206)
    assert {file.name for file in tmp_path.iterdir()} == {"w.pkl", ".w.pkl.lock"}


def test_a_part_from_another_address_is_not_continued(site: CityscapesSite, tmp_path: Path) -> None:
    site.fail(f"/{NAME}", *[Fault(drop_after=100_000)] * 2)
    with pytest.raises(FoveaError, match="kept"):
        download(f"{site.url}/{NAME}", tmp_path / "w.pkl", None, HASTY)
    other = f"{site.url}/file-handling/?packageID=1"
    assert download(other, tmp_path / "w.pkl", None, HASTY).read_bytes() == BODY
    assert site.requests[-1][2:] == (None, 200)


@pytest.mark.parametrize(
    ("fault", "words", "requests"),
    [
        (Fault(body=b"\n<!DOCTYPE html><title>Log in</title>"), "HTML page", 1),
        (Fault(body=pickle.dumps([1])), "a pickle, which is never loaded", 1),
        (Fault(status=404), "404", 1),
        (Fault(status=403), "403", 1),
        (Fault(status=503), "503", 2),
        (Fault(), f"SHA-256 is {hashlib.sha256(BODY).hexdigest()}, not {'0' * 64}", 2),
    ],
)
def test_what_is_not_the_file_leaves_nothing(
    site: CityscapesSite, tmp_path: Path, fault: Fault, words: str, requests: int
) -> None:
    site.always[f"/{NAME}"] = fault
    with pytest.raises(FoveaError, match=words):
        download(f"{site.url}/{NAME}", tmp_path / "w.pkl", "0" * 64, HASTY)
    assert [file.name for file in tmp_path.iterdir()] == [".w.pkl.lock"] and len(site.requests) == requests


def test_address(monkeypatch: pytest.MonkeyPatch) -> None:
    name = NAME
    monkeypatch.delenv("FOVEA_SAM_URL", raising=False)
    release = "https://github.com/marcellacornia/sam/releases/download/1.0/"
    assert sam_import.source_url(name) == release + name
    monkeypatch.setenv("FOVEA_SAM_URL", "http://mirror.example/sam")
    assert sam_import.source_url(name) == f"http://mirror.example/sam/{name}"
    assert sam_import.source_url(name, "https://x.example/a.h5") == "https://x.example/a.h5"
    with pytest.raises(FoveaError, match="not an http"):
        sam_import.source_url(name, "file:///etc/passwd")


# --- fetch_weights: with a network of one layer in place of the real ones ---


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """Stands in for a published file; reading it gives one tensor."""

    def read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
        sam_import.refuse_unless_hdf5(path)
        return "sam_vgg", {"x": torch.ones(2)}

    monkeypatch.setattr(sam_import, "read_weights", read)
    return BODY


def test_fetch_converts_once(site: CityscapesSite, tmp_path: Path, tiny: bytes) -> None:
    folder, digest = tmp_path / "weights", hashlib.sha256(tiny).hexdigest()
    path = fetch_weights("sam_vgg", folder, site.url, manner=HASTY)
    assert path == folder / "sam_vgg.safetensors" and path.is_file()
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["source_sha256"] == digest and described["source_url"].endswith(f"/{NAME}")
    assert described["sha256"] == sam_import.sha256_of(path) and described["licence"] == "MIT"
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json", ".lock"}
    assert fetch_weights("sam_vgg", folder, site.url) == fetch_weights("sam_vgg", folder, site.url, digest) == path
    assert len(site.requests) == 1  # there already
    with pytest.raises(FoveaError, match="SHA-256 is"):
        fetch_weights("sam_vgg", folder, site.url, "0" * 64, HASTY)
    assert path.is_file()


def test_fetch_refuses_another_networks_file(site: CityscapesSite, tmp_path: Path, tiny: bytes) -> None:
    site.packages[1] = site.packages[1].rename(site.packages[1].with_name("sam-resnet_salicon_weights.pkl"))
    with pytest.raises(FoveaError, match="holds sam_vgg, not sam_resnet"):
        fetch_weights("sam_resnet", tmp_path, site.url)
    assert not (tmp_path / "sam_resnet.safetensors").exists()
    with pytest.raises(FoveaError, match="no published weights"):
        fetch_weights("sam_lite", tmp_path, site.url)


def test_the_command_downloads_and_says_what_is_wrong(
    site: CityscapesSite, tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import main

    monkeypatch.setenv("FOVEA_HOME", str(tmp_path))
    site.fail(f"/{NAME}", Fault(status=503))
    fetched = CliRunner().invoke(main, ["saliency-weights", "fetch", "sam_vgg", "--url", site.url])
    assert fetched.exit_code == 0 and "status 503; try 2 of" in fetched.output, fetched.output
    assert str(tmp_path / "weights/sam_vgg.safetensors") in fetched.output
    (tmp_path / "w.pkl").write_bytes(pickle.dumps([1]))
    refused = CliRunner().invoke(main, ["saliency-weights", "import", str(tmp_path / "w.pkl")])
    assert refused.exit_code == 1 and "a pickle, which is never loaded" in refused.output
