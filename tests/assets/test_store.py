import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from assets.home import explained, written_beside
from assets.mirror import open_store
from assets.settings import Profile
from assets.store import Store, digest, node
from models.errors import FoveaError


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """On a local disk, and on an fsspec file system that is none (as an object store)."""
    if request.param == "disk":
        return open_store(UPath(tmp_path / "data"), tmp_path / "cache", Profile())
    return open_store(UPath(f"memory://{tmp_path.name}/data"), tmp_path / "cache", Profile())


def test_a_unit_appears_whole(store: Store) -> None:
    key = digest("one")
    assert not store.has("stage", key)
    with store.writing("stage", key) as writer:
        writer.meta["a"] = 1
        writer.path("deep/file.txt").write_text("text")
        assert not store.has("stage", key)
    assert store.has("stage", key) and store.manifest("stage", key)["meta"] == {"a": 1}
    assert store.manifest("stage", key)["objects"] == {"deep/file.txt": 4}
    assert store.path("stage", key, "deep/file.txt").read_text() == "text"
    assert (store.folder("stage", key) / "deep/file.txt").read_text() == "text"


def test_a_failure_leaves_nothing(store: Store) -> None:
    key = digest("broken")
    with pytest.raises(RuntimeError), store.writing("stage", key) as writer:
        writer.path("file").write_text("half")
        raise RuntimeError
    assert not store.has("stage", key) and [p for p in store.root.rglob("*") if p.is_file()] == []


def test_the_first_maker_wins_and_the_second_is_harmless(store: Store) -> None:
    key = digest("race")
    with store.writing("stage", key) as slow:
        slow.path("v").write_text("same")
        with store.writing("stage", key) as fast:
            fast.path("v").write_text("same")
    assert store.path("stage", key, "v").read_text() == "same"


def test_a_missing_or_damaged_manifest_is_a_clear_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match="is not in the store"):
        store.manifest("stage", "ab12")
    key = digest("damaged")
    with store.writing("stage", key):
        pass
    (store.root / "stage" / key[:2] / key / "manifest.json").write_text("{")
    with pytest.raises(FoveaError, match="is damaged"):
        open_store(store.root, tmp_path / "cache", Profile()).manifest("stage", key)


def test_a_unit_with_an_object_missing_is_not_there(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path))
    key = digest("whole")
    with store.writing("stage", key) as writer:
        writer.path("a/b").write_text("12345")
    store.path("stage", key, "a/b").write_text("123")
    assert not store.has("stage", key)
    with store.writing("stage", key) as writer:
        writer.path("a/b").write_text("12345")
    assert store.has("stage", key)


def test_what_a_killed_maker_left_is_swept(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path))
    key = digest("swept")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / "stage" / key[:2] / f".{key}.{dead.pid}-{node()}0badcafe"
    alive = left.with_name(f".{key}.{os.getpid()}-{node()}0badcafe")
    left.mkdir(parents=True)
    alive.mkdir()
    with store.writing("stage", key):
        pass
    assert not left.exists() and alive.exists()


def test_shards_give_back_arrays_and_reasons(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [(f"k{i}", rng.integers(0, 256, (3 + i, 5, 3), np.uint8)) for i in range(4)]
    store.shelf("frames").put_shard(arrays[:2], [("bad", "cut short")])
    assert set(store.shelf("frames").index()) == {"k0", "k1", "bad"}
    store.shelf("frames").put_shard(arrays[2:])
    other = open_store(store.root, tmp_path / "cache", Profile())
    assert set(store.shelf("frames").index()) == set(other.shelf("frames").index()) == {"k0", "k1", "k2", "k3", "bad"}
    for key, array in arrays:
        np.testing.assert_array_equal(other.shelf("frames").array(key), array)
    with pytest.raises(FoveaError, match="cut short"):
        other.shelf("frames").array("bad")
    with pytest.raises(FoveaError, match="no array"):
        other.shelf("frames").array("nobody")


def test_single_objects(store: Store) -> None:
    assert store.shelf("pngs").object_keys() == set()
    store.shelf("pngs").put_object("abcdef", ".png", b"data")
    assert store.shelf("pngs").object_keys() == {"abcdef"}
    assert store.shelf("pngs").get_object("abcdef", ".png") == b"data"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=8,
    )
)
def test_digests_see_values_not_order(value: object) -> None:
    assert digest({"a": value, "b": 1}) == digest({"b": 1, "a": value})
    assert digest({"a": value, "b": 1}) != digest({"a": value, "b": 2})


def test_a_shard_cut_short_is_noticed_and_can_be_written_again(tmp_path: Path) -> None:
    store = Store(UPath(tmp_path))
    array = np.arange(4096, dtype=np.uint16).astype(np.uint8).reshape(64, 64)
    store.shelf("frames").put_shard([("a", array)])
    (data,) = (tmp_path / "frames/shards").glob("*.bin")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(FoveaError, match="no array a; run the stage again"):
        Store(UPath(tmp_path)).shelf("frames").array("a")
    store.shelf("frames").put_shard([("a", array)])
    np.testing.assert_array_equal(Store(UPath(tmp_path)).shelf("frames").array("a"), array)


def test_writing_beside_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_beside(path) as beside:
        beside.write_text("new, half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "cannot write"),
        (errno.EACCES, "cannot write"),
        (errno.EFBIG, "would be larger than"),
    ],
)
def test_the_systems_refusals_say_what_to_do(number: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(FoveaError, match=said) as caught, explained(tmp_path):
        raise OSError(number, os.strerror(number))
    assert "FOVEA_HOME" in str(caught.value)
    with pytest.raises(FoveaError, match=said) as caught, explained(tmp_path, "let -o name"):
        raise OSError(number, os.strerror(number))
    assert "FOVEA_HOME" not in str(caught.value) and "let -o name a" in str(caught.value)
    with pytest.raises(OSError, match="elsewhere"), explained(tmp_path / "home/unit"):
        raise OSError(number, os.strerror(number), "/elsewhere/fixations.parquet")
    for name in (tmp_path / "home/unit/part", tmp_path / "home/.unit", tmp_path):
        with pytest.raises(FoveaError, match=said), explained(tmp_path / "home/unit"):
            raise OSError(number, os.strerror(number), str(name))


FULL = """
import os, sys, resource
from upath import UPath
from assets.store import Store
from models.errors import FoveaError
import numpy as np, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = Store(UPath(sys.argv[1]))
try:
    store.shelf("frames").put_shard([("a", np.zeros(500_000, np.uint8))])
except (FoveaError, OSError) as error:
    print("refused:", error)
print(sorted(p.name for p in (UPath(sys.argv[1]) / "frames" / "shards").iterdir()))
"""


def test_a_shard_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout and done.stdout.strip().endswith("[]")
