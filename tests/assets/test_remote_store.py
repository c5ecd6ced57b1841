"""The store on a real S3 server that goes away, comes back, and is shared by two nodes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from servers.s3_server import S3Server
from upath import UPath

from assets.handover import shared_work, take_over
from assets.mirror import Cache, Mirror
from assets.remote import Remote, StorageAway
from assets.settings import Profile
from assets.store import digest
from models.errors import FoveaError


@pytest.fixture
def root(s3: S3Server, request: pytest.FixtureRequest) -> UPath:
    address = f"s3://fovea/{digest(request.node.name)[:8]}"
    return UPath(address, **Profile(storage=address, s3_endpoint=s3.endpoint).storage_options())


@pytest.fixture
def store(root: UPath, tmp_path: Path) -> Mirror:
    return Mirror(root, tmp_path / "cache", wait_s=30)


KEY = digest("unit")


def fill(store: Mirror, key: str = KEY, text: str = "text") -> None:
    with store.writing("stage", key) as writer:
        writer.meta["a"] = 1
        writer.path("deep/file.txt").write_text(text)
        writer.path("other").write_bytes(b"x" * 1000)


def test_two_nodes_share_units_shards_and_single_objects(store: Mirror, tmp_path: Path) -> None:
    other = Mirror(store.root, tmp_path / "other")
    assert not other.has("stage", KEY)
    assert other.shelf("frames").index() == {} and other.shelf("pngs").object_keys() == set()
    fill(store)
    array = np.arange(96, dtype=np.uint8).reshape(8, 12)
    store.shelf("frames").put_shard([("a", array), ("b", array[:4])], [("bad", "cut short")])
    store.shelf("pngs").put_object("abcdef", ".png", b"data")
    assert other.has("stage", KEY) and (other.folder("stage", KEY) / "deep/file.txt").read_text() == "text"
    np.testing.assert_array_equal(other.shelf("frames").array("b"), array[:4])
    with pytest.raises(FoveaError, match="cut short"):
        other.shelf("frames").array("bad")
    assert other.shelf("pngs").object_keys() == {"abcdef"}


def test_what_this_node_made_is_not_fetched(store: Mirror, s3: S3Server) -> None:
    fill(store)
    array = np.zeros((64, 64), np.uint8)
    store.shelf("frames").put_shard([("a", array)])
    store.shelf("frames").index()
    s3.door.shut()
    assert (store.path("stage", KEY, "other")).stat().st_size == 1000
    np.testing.assert_array_equal(store.shelf("frames").array("a"), array)


def test_the_manifest_comes_last(store: Mirror, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"{store.root.path.split('/', 1)[1]}/stage/"
    seen: list[list[str]] = []
    write = Remote.write

    def watched(self: Remote, name: str, data: bytes) -> None:
        seen.append(sorted(s3.objects(prefix=prefix)))
        write(self, name, data)

    monkeypatch.setattr(Remote, "write", watched)
    fill(store)
    (before,) = seen
    assert len(before) == 2 and not any(name.endswith("manifest.json") for name in before)
    assert len(s3.objects(prefix=prefix)) == 3


def test_two_makers_with_different_bits_never_mix(store: Mirror, tmp_path: Path) -> None:
    other = Mirror(store.root, tmp_path / "other")
    with store.writing("stage", KEY) as slow:
        slow.path("a").write_text("slow a")
        slow.path("b").write_text("slow b")
        with other.writing("stage", KEY) as fast:
            fast.path("a").write_text("fast a")
            fast.path("b").write_text("fast b")
    for cache in ("new", "newer"):
        folder = Mirror(store.root, tmp_path / cache).folder("stage", KEY)
        assert {(folder / n).read_text() for n in "ab"} in ({"slow a", "slow b"}, {"fast a", "fast b"})


def test_a_write_survives_an_outage(store: Mirror, s3: S3Server, tmp_path: Path) -> None:
    s3.door.shut()
    timer = threading.Timer(0.6, s3.door.open)
    timer.start()
    began = time.monotonic()
    fill(store)
    timer.join()
    assert time.monotonic() - began > 0.5 and Mirror(store.root, tmp_path / "cache" / "fresh").has("stage", KEY)


def test_an_upload_cut_in_the_middle_is_sent_again_whole(
    store: Mirror, s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4 << 20,), np.uint8)
    s3.door.after_bytes = 2 << 20
    watcher = threading.Thread(target=lambda: (wait_shut(s3), time.sleep(4), s3.door.open()))
    watcher.start()
    store.shelf("frames").put_shard([("a", array)])
    watcher.join()
    other = Mirror(store.root, tmp_path / "other")
    np.testing.assert_array_equal(other.shelf("frames").array("a"), array)
    assert "does not answer" in caplog.text and "answers again" in caplog.text


def wait_shut(s3: S3Server) -> None:
    while s3.door.is_open:
        time.sleep(0.01)


def test_a_read_survives_an_outage(store: Mirror, s3: S3Server, tmp_path: Path) -> None:
    fill(store)
    other = Mirror(store.root, tmp_path / "other", wait_s=30)
    s3.door.shut()
    timer = threading.Timer(0.6, s3.door.open)
    timer.start()
    assert (other.folder("stage", KEY) / "deep/file.txt").read_text() == "text"
    timer.join()


def test_what_could_not_be_sent_is_kept_and_sent_later(store: Mirror, s3: S3Server, tmp_path: Path) -> None:
    store.remote.wait_s = 0.5
    s3.door.shut()
    with pytest.raises(StorageAway, match="run the same command again"):
        fill(store)
    with pytest.raises(StorageAway):
        store.has("stage", KEY)
    s3.door.open()
    later = Mirror(store.root, tmp_path / "cache")
    assert later.has("stage", KEY) and (Mirror(store.root, tmp_path / "other").folder("stage", KEY) / "other").exists()
    assert not list(later.unsent.rglob("*.txt"))


def test_two_commands_that_send_what_waits_both_find_it(
    store: Mirror, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.remote.wait_s = 0.5
    s3.door.shut()
    with pytest.raises(StorageAway):
        fill(store)
    s3.door.open()
    slow, quick = (Mirror(store.root, tmp_path / "cache") for _ in range(2))
    put = Remote.put

    def overtaken(self: Remote, path: Path, name: str) -> None:
        if self is slow.remote:
            assert quick.has("stage", KEY)
        put(self, path, name)

    monkeypatch.setattr(Remote, "put", overtaken)
    assert slow.has("stage", KEY)
    assert (slow.folder("stage", KEY) / "other").exists() and (slow.folder("stage", KEY) / "deep/file.txt").exists()
    assert not [path for path in slow.unsent.rglob("*") if path.is_file()]


def test_a_damaged_object_is_refused(store: Mirror, s3: S3Server, tmp_path: Path) -> None:
    fill(store)
    prefix = store.root.path.split("/", 1)[1]
    (name,) = [k for k in s3.objects(prefix=prefix) if k.endswith("other")]
    client = s3.client()
    client.put_object(Bucket="fovea", Key=name, Body=b"y" * 1000)
    with pytest.raises(FoveaError, match="damaged"):
        Mirror(store.root, tmp_path / "other").folder("stage", KEY)
    client.delete_object(Bucket="fovea", Key=name)
    client.close()
    with pytest.raises(FoveaError, match="is gone, though its manifest names it"):
        Mirror(store.root, tmp_path / "third").folder("stage", KEY)


def test_a_bucket_that_is_not_there_and_missing_keys_are_explained(
    s3: S3Server, root: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = UPath("s3://nowhere/x", **Profile(storage="s3://nowhere/x", s3_endpoint=s3.endpoint).storage_options())
    for asked in (
        lambda: fill(Mirror(nowhere, tmp_path / "c")),
        lambda: Mirror(nowhere, tmp_path / "d").has("stage", KEY),
        lambda: Mirror(nowhere, tmp_path / "d").shelf("frames").index(),
        lambda: Remote(nowhere).read_many(["a", "b"]),
        lambda: Remote(nowhere).fetch("a", tmp_path / "a"),
        lambda: Remote(nowhere).delete("a"),
    ):
        with pytest.raises(FoveaError, match="s3://nowhere/x: no such bucket; make it, or correct storage"):
            asked()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    options = Profile(storage="s3://fovea/x", s3_endpoint=s3.endpoint).storage_options()
    bare = UPath(f"{root}", **{**options, "max_concurrency": 3})
    with pytest.raises(FoveaError, match="AWS_ACCESS_KEY_ID"):
        Remote(bare, wait_s=5).read("anything")


# ---- the cache


def entry(cache: Cache, name: str, size: int, age: float = 0.0) -> Path:
    path = cache.get(name, size, lambda p: (p.write_bytes(b"z" * size), None)[1])
    os.utime(path, (time.time() - age,) * 2)
    return path


def used(cache: Cache) -> int:
    return sum(path.stat().st_size for path in cache.folder.rglob("a"))


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for place in range(5):
        entry(cache, f"stage/unit{place}/a", 200, age=1000 - 100 * place)
    assert cache.find("stage/unit0/a", 200)  # used: the next oldest goes first
    entry(cache, "stage/unit5/a", 200)
    assert used(cache) <= 1000 and cache.find("stage/unit0/a", 200) and not cache.find("stage/unit1/a", 200)
    assert cache.find("stage/unit5/a", 200)


def test_what_is_held_stays_until_its_holder_is_gone(tmp_path: Path) -> None:
    holder, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)
    entry(holder, "stage/held/a", 400, age=5000)
    holder.hold("stage/held")
    entry(other, "stage/unit1/a", 400)
    entry(other, "stage/unit2/a", 400)
    assert other.find("stage/held/a", 400) and not other.find("stage/unit1/a", 400)
    del holder
    (tmp_path / "stage/held/a").touch()
    os.utime(tmp_path / "stage/held/a", (1, 1))
    entry(other, "stage/unit3/a", 400)
    assert not other.find("stage/held/a", 400)


def test_an_entry_of_another_size_or_content_is_not_believed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    path = entry(cache, "a", 100)
    path.write_bytes(b"short")
    assert cache.find("a", 100) is None and entry(cache, "a", 100).stat().st_size == 100
    with pytest.raises(FoveaError, match="damaged"):
        cache.get("b", 3, lambda p: (p.write_bytes(b"abc"), None)[1], sha256="0" * 64)
    assert cache.find("b", 3) is None


CROWD = """
import sys
from pathlib import Path
from assets.mirror import Cache
cache = Cache(Path(sys.argv[1]), 20_000)
for place in range(60):
    name = f"stage/{(place * int(sys.argv[2])) % 61}/a"
    path = cache.get(name, 1000, lambda p: (p.write_bytes(name.encode().ljust(1000)), None)[1])
    try:
        assert path.read_bytes() == name.encode().ljust(1000)
    except FileNotFoundError:
        pass
print(sum(p.stat().st_size for p in cache.folder.rglob('a')))
"""


def test_processes_share_the_cache_and_its_limit(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CROWD, str(tmp_path)]
    workers = [subprocess.Popen([*words, str(step)], stdout=subprocess.PIPE) for step in (1, 7, 11)]
    for worker in workers:
        out, _ = worker.communicate()
        assert worker.returncode == 0 and int(out) <= 20_000


def test_training_goes_on_with_arrays_that_the_cache_let_go(store: Mirror, tmp_path: Path) -> None:
    small = Mirror(store.root, tmp_path / "small", cache_bytes=3000)
    for k in range(10):
        store.shelf("frames").put_shard([(f"k{k}", np.full(1000, k, np.uint8))])
    mapped = [small.shelf("frames").array(f"k{k}") for k in range(10)]
    assert sum(p.stat().st_size for p in small.copies.folder.rglob("*.bin")) <= 3000
    np.testing.assert_array_equal(mapped, np.arange(10)[:, None].repeat(1000, axis=1))


# ---- checkpoints


def test_another_node_goes_on_from_the_shared_checkpoint(root: UPath, tmp_path: Path) -> None:
    shared = Remote(root, wait_s=20)
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(KeyboardInterrupt), shared_work(shared, first, "key", look_s=0.05):
        first.mkdir()
        for step in range(3):
            (first / f"step-{step}.ckpt").write_text(f"state {step}")
            (first / f"step-{step - 1}.ckpt").unlink(missing_ok=True)
            time.sleep(0.3)
        raise KeyboardInterrupt
    with shared_work(shared, second, "key", look_s=0.05):
        assert [p.name for p in second.iterdir()] == ["step-2.ckpt"]
        assert (second / "step-2.ckpt").read_text() == "state 2"
        (second / "step-9.ckpt").write_text("state 9")
        time.sleep(0.5)
        third = tmp_path / "third"
        take_over(shared.below("work/key"), third)
        assert sorted(p.name for p in third.iterdir()) == ["step-2.ckpt", "step-9.ckpt"]
    assert shared.listing("work/key") == {}


def test_the_own_newer_checkpoint_is_kept(root: UPath, tmp_path: Path) -> None:
    shared = Remote(root, wait_s=20)
    place = shared.below("work/key")
    place.write("files.json", json.dumps({"step-1.ckpt": {"sha256": "0" * 64, "time": 1}}).encode())
    (tmp_path / "own").mkdir()
    (tmp_path / "own/step-5.ckpt").write_text("mine")
    assert take_over(place, tmp_path / "own") and [p.name for p in (tmp_path / "own").iterdir()] == ["step-5.ckpt"]
    # a list whose files are gone is no reason to stop
    assert take_over(place, tmp_path / "empty") and not (tmp_path / "empty").exists()


def test_training_does_not_wait_for_an_absent_storage(
    root: UPath, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assets.handover.LAST_WAIT_S", 0.5)
    folder = tmp_path / "work"
    began = time.monotonic()
    with shared_work(Remote(root, wait_s=1), folder, "key", look_s=0.05):
        s3.door.shut()
        folder.mkdir()
        (folder / "step-1.ckpt").write_text("state")
        time.sleep(0.3)
    assert time.monotonic() - began < 10


def test_a_long_call_has_its_whole_time_to_be_tried_again(tmp_path: Path) -> None:
    shared = Remote(UPath(tmp_path), wait_s=0.3)
    tries = []

    def upload() -> str:
        tries.append(1)
        if len(tries) == 1:
            time.sleep(0.6)
            raise ConnectionResetError("cut")
        return "there"

    assert shared.tried(upload) == "there" and len(tries) == 2


def refusal(code: str, status: int) -> OSError:
    """As s3fs raises what a server answered."""
    import botocore.exceptions
    from s3fs.errors import translate_boto_error

    answer = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: OSError = translate_boto_error(botocore.exceptions.ClientError(answer, "PutObject"))
    return error


def test_no_time_is_spent_on_what_will_be_refused_again(tmp_path: Path) -> None:
    import botocore.exceptions

    shared = Remote(UPath(tmp_path), wait_s=30.0)
    refused = [
        botocore.exceptions.InvalidRegionError(region_name="no such"),
        botocore.exceptions.NoCredentialsError(),
        refusal("PermanentRedirect", 301),
        refusal("AuthorizationHeaderMalformed", 400),
        refusal("SomethingNew", 422),
        refusal("NotImplemented", 501),
        refusal("InvalidAccessKeyId", 403),
    ]
    for error in refused:
        ask = mock.Mock(side_effect=error)
        with pytest.raises(FoveaError) as caught:
            shared.tried(ask)
        assert ask.call_count == 1 and not isinstance(caught.value, StorageAway), error
    with pytest.raises(FoveaError, match="s3_region"):
        shared.tried(mock.Mock(side_effect=refused[0]))


def test_what_may_pass_is_asked_again(tmp_path: Path) -> None:
    import aiohttp
    import botocore.exceptions
    import fsspec.exceptions

    shared = Remote(UPath(tmp_path), wait_s=30.0)
    passing = [
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
        refusal("SlowDown", 503),
        refusal("InternalError", 500),
        refusal("InternalError", 200),
        refusal("TooManyRequests", 429),
        refusal("SomethingNew", 504),
        aiohttp.ClientPayloadError(),
        fsspec.exceptions.FSTimeoutError(),
        ConnectionResetError(),
    ]
    for error in passing:
        assert shared.tried(mock.Mock(side_effect=[error, "there"])) == "there", error
