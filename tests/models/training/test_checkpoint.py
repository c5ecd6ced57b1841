import pytest
import torch

from models.training.checkpoint import (
    DamagedCheckpointWarning,
    checkpoints,
    drop_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def state(step):
    return {"step": step, "tensor": torch.full((3,), float(step)), "rows": "[]", "nested": {"a": [torch.zeros(0)]}}


def test_round_trip_and_two_are_kept(tmp_path):
    assert load_checkpoint(tmp_path) is None
    for step in (5, 10, 100, 15):
        save_checkpoint(tmp_path, step, state(step))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000100.ckpt", "step-000000015.ckpt"]
    loaded = load_checkpoint(tmp_path)
    assert loaded["step"] == 100 and torch.equal(loaded["tensor"], torch.full((3,), 100.0))
    assert not list(tmp_path.glob(".*"))
    drop_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "header"])
def test_a_damaged_file_falls_back_to_the_one_before(tmp_path, damage):
    save_checkpoint(tmp_path, 1, state(1))
    path = save_checkpoint(tmp_path, 2, state(2))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    else:
        del data[{"cut": len(data) - 1, "empty": 0, "header": 20}[damage] :]
    path.write_bytes(data)
    with pytest.warns(DamagedCheckpointWarning, match="step-000000002"):
        assert load_checkpoint(tmp_path)["step"] == 1
    assert not path.exists()
    checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.warns(DamagedCheckpointWarning):
        assert load_checkpoint(tmp_path) is None


def test_an_interrupted_writers_leftover_is_removed(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    (tmp_path / ".step-000000002.ckpt.77").write_bytes(b"half")
    assert load_checkpoint(tmp_path)["step"] == 1 and [p.name for p in tmp_path.iterdir()] == ["step-000000001.ckpt"]


def test_only_the_previous_is_left_while_the_next_is_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1))
    monkeypatch.setattr(type(tmp_path), "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, 2, state(2))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["step"] == 1


def test_no_code_is_run_when_loading(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    save_checkpoint(tmp_path, 1, {"step": Evil()})
    with pytest.raises(Exception, match="Weights only load failed"):
        load_checkpoint(tmp_path)
