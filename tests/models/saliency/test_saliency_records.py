"""Names of trainings, and the lists of pictures that weights have seen."""

import itertools
import json
from pathlib import Path

import pytest

from models.codecs.catalogue import WEIGHTS, shipped, shipped_folder
from models.errors import FoveaError
from models.saliency.catalogue import describe_weights, weights_path
from models.saliency.records import SaliencyTraining, is_training, training_of, trainings_of
from models.seen import read_seen, seen_path, write_seen


def test_key_and_record_are_one_to_one() -> None:
    found = {}
    for dataset, preset, seed in itertools.product(("osie", "a-b_2"), ("default", "tiny"), (0, 3)):
        common = {"dataset": dataset, "preset": preset, "seed": seed}
        records = [SaliencyTraining(**common), *(SaliencyTraining(**common, folds=3, fold=k) for k in range(3))]
        for record in records:
            assert training_of(record.key) == record and is_training(record.key)
            assert found.setdefault(record.key, record) == record
    assert len(found) == 8 * 4


def test_equal_recipes_have_equal_resolved_records_and_others_have_not() -> None:
    default = SaliencyTraining(dataset="a").resolved()
    assert default == SaliencyTraining(dataset="b").resolved()
    assert default != SaliencyTraining(dataset="a", seed=1).resolved()
    assert default != SaliencyTraining(dataset="a", preset="tiny").resolved()
    json.dumps(default)


def test_a_name_with_folds_stands_for_the_model_and_each_fold() -> None:
    keys = [t.key for t in trainings_of("osie.sam_lite+3folds")]
    assert keys == ["osie.sam_lite", *(f"osie.sam_lite-fold{k}of3" for k in range(3))]
    assert trainings_of("sam_lite") == () and not is_training("osie.sam_lite+3folds") and not is_training("sam_lite")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("osie.sam_light", "unknown saliency model"),
        ("osie.sam_lite+1folds", "folds must be 2"),
        ("osie.sam_lite-fold3of3", "fold must be one of"),
        ("osie.sam_lite-fold0of0", "folds must be at least 2"),
        ("osie.sam_lite-fold0of2+2folds", "either one fold"),
        ("osie.sam_vgg", "or one that you train, such as osie.sam_lite"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(FoveaError, match=said):
        trainings_of(name)


def test_seen_pictures_are_written_and_read(tmp_path: Path) -> None:
    weights = tmp_path / "x.safetensors"
    assert not read_seen(weights).train
    write_seen(weights, ["a" * 64], ["b" * 64, "c" * 64])
    seen = read_seen(weights)
    assert seen.train == {"a" * 16} and seen.validation == {"b" * 16, "c" * 16}
    assert seen.trained_on(["a" * 64, "b" * 64]) == [True, False]
    zipped = "crc32:10cbb033-2048-ends:0123456789abcdef"
    write_seen(weights, [zipped])
    assert read_seen(weights).trained_on([zipped, zipped.replace("ends:0", "ends:1")]) == [True, False]
    for damaged in ("[]", '{"train": "abc", "validation": []}', "nothing"):
        seen_path(weights).write_text(damaged)
        with pytest.raises(FoveaError, match="not a list of pictures"):
            read_seen(weights)
    seen_path(weights).unlink()
    seen_path(weights).mkdir()
    with pytest.raises(FoveaError, match="not a list of pictures"):
        read_seen(weights)


def test_the_shipped_weights_come_with_their_list() -> None:
    path = weights_path("sam_lite")
    described, seen = describe_weights(path), read_seen(path)
    assert (len(seen.train), len(seen.validation)) == (described["train"]["count"], described["validation"]["count"])


def test_shipped_codecs_and_maps_come_from_the_same_photographs() -> None:
    maps = read_seen(weights_path("sam_lite")).train
    lists = {name: read_seen(shipped_folder(name) / WEIGHTS).train for name in shipped()}
    assert len(set(lists.values())) == 1 and all(maps < seen and len(seen) == 867 for seen in lists.values())
