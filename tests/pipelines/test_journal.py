import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import FoveaError
from pipelines.journal import Journal, Progress


def read_all(journal, limit=1 << 16):
    return [record for records, _ in journal.read(0, limit) for record in records]


@given(texts=st.lists(st.text(max_size=60), max_size=12), limit=st.integers(1, 200), cut=st.integers(0, 80))
@settings(max_examples=60)
def test_reads_back_whole_records_in_blocks_of_any_size(tmp_path_factory, texts, limit, cut):
    journal = Journal.of(tmp_path_factory.mktemp("j"), "key")
    for text in texts:
        journal.append({"text": text})
    assert [r["text"] for r in read_all(journal, limit)] == texts
    if texts:  # a killed writer: the last record is torn, and the next one is not harmed
        with journal.path.open("r+b") as file:
            file.truncate(max(journal.size - 1 - cut, 0))
        journal.append({"text": "after"})
        found = [r["text"] for r in read_all(journal, limit)]
        assert found[-1] == "after" and found[:-1] == texts[: len(found) - 1]


def writer(folder, loop):
    """A process that appends records in `loop`, as j.append({...})."""
    code = "import sys; from pathlib import Path; from pipelines.journal import Journal\n"
    code += f"j = Journal.of(Path(sys.argv[1]), 'k')\n{loop}\n"
    return subprocess.Popen([sys.executable, "-c", code, str(folder)])


def test_several_processes_append_whole_records(tmp_path):
    loop = "for i in range(500): j.append({{'who': '{}', 'i': i, 'text': 'x' * 300}})"
    writers = [writer(tmp_path, loop.format(who)) for who in "abc"]
    assert [w.wait() for w in writers] == [0, 0, 0]
    found = read_all(Journal.of(tmp_path, "k"))
    for who in "abc":
        assert [r["i"] for r in found if r["who"] == who] == list(range(500))


def test_a_killed_writer_leaves_whole_records(tmp_path):
    killed = writer(tmp_path, "import itertools\nfor i in itertools.count(): j.append({'i': i, 'text': 'x' * 9000})")
    journal = Journal.of(tmp_path, "k")
    while journal.size < 200_000:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    journal.append({"i": -1})
    found = [r["i"] for r in read_all(journal)]
    assert found[-1] == -1 and found[:-1] == list(range(len(found) - 1))


def test_progress_is_kept_for_each_server(tmp_path):
    journal = Journal.of(tmp_path, "k")
    journal.append({"op": "run"})
    assert journal.progress("a") is None and not journal.waits("a")
    journal.save_progress("a", Progress("1", "2", journal.size))
    journal.save_progress("b", Progress())
    again = Journal.of(tmp_path, "k")
    assert again.progress("a") == Progress("1", "2", journal.size) and not again.waits("a")
    assert again.progress("b") == Progress() and again.waits("b")


def test_the_spool_keeps_copies_in_order(tmp_path):
    journal = Journal.of(tmp_path / "j", "k")
    source = tmp_path / "weights.bin"
    source.write_bytes(b"one")
    journal.keep(source, source.name, {"op": "artifact", "folder": "codec"})
    source.write_bytes(b"two")
    journal.keep(b"three", "x.png", {"op": "artifact", "folder": ""})
    first, second = read_all(journal)
    kept = [journal.spool / record["file"] for record in (first, second)]
    assert first["folder"] == "codec" and [k.name for k in kept] == ["weights.bin", "x.png"]
    assert [k.read_bytes() for k in kept] == [b"one", b"three"]
    journal.let_go(first)
    assert [k.exists() for k in kept] == [False, True]


def test_a_full_disk_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", mock.Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(FoveaError, match="no space left"):
        Journal.of(tmp_path, "k").append({"op": "run"})
