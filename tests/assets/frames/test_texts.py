"""Texts in pictures: a user's table, checked and moved to frames; what `sample` knows of its own."""

import json
from pathlib import Path

import pandas as pd
import pytest

from assets.datasets import Dataset
from assets.frames.texts import drawn_texts, frame_texts, read_texts
from models.errors import FoveaError
from models.judges import Text

MANIFEST = pd.DataFrame(
    {"image": ["a", "b"], "path": ["a.png", "b.png"], "status": "ok", "width": [400, 100], "height": [200, 50]}
)
ROW = {"image": "a.png", "text": "AB 12", "x": 40.0, "y": 20, "width": 100, "height": 30}


@pytest.mark.parametrize("name", ["words.parquet", "words.csv"])
def test_a_table_is_read_and_moved_to_frames(tmp_path: Path, name: str) -> None:
    table, file = pd.DataFrame([ROW, ROW | {"image": "unknown"}, ROW | {"x": 0, "text": "CUT"}]), tmp_path / name
    table.to_parquet(file) if name.endswith("parquet") else table.to_csv(file, sep=";", decimal=",", index=False)
    texts = read_texts(file, MANIFEST)
    assert list(texts.image) == ["a", "a"] and list(texts.text) == ["AB 12", "CUT"]
    square = Dataset("d", "folder", size=(100, 100))  # cuts 100 pixels off at each side, then halves
    assert frame_texts(square, texts.assign(x=[140, 0]), MANIFEST) == [[Text("AB 12", 20, 10, 50, 15)], []]
    assert frame_texts(Dataset("d", "folder"), texts, MANIFEST)[0][0] == Text("AB 12", 40, 20, 100, 30)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": 301}, r"words.csv: a, 'AB 12' \(x 301 y 20 width 100 height 30\): its box does not lie in the picture"),
        ({"width": 0}, "does not lie"),
        ({"y": "here"}, "does not lie"),
        ({"text": " "}, "no text"),
        ({"image": "c.png"}, "none of its 1 rows is .* can be used; it names c.png, the dataset has a"),
        ({"x": 0.5, "y": 0.25, "width": 0.5, "height": 1}, "words.csv: no x or y or width or height is above 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    file = tmp_path / "words.csv"
    pd.DataFrame([ROW | change]).to_csv(file, index=False)
    with pytest.raises(FoveaError, match=said):
        read_texts(file, MANIFEST)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (broken := tmp_path / "words.parquet").write_text("no")
    pd.DataFrame([ROW]).drop(columns=["x"]).to_parquet(lacking := tmp_path / "lacking.parquet")
    for file, said in ((tmp_path / "gone.csv", "no table"), (broken, "can't be read"), (lacking, "no column x")):
        with pytest.raises(FoveaError, match=said):
            read_texts(file, MANIFEST)
    twice = MANIFEST.assign(image=["x/a", "y/a"], path=["x/a.png", "y/a.png"])
    pd.DataFrame([ROW]).to_parquet(broken)
    with pytest.raises(FoveaError, match="several pictures have"):
        read_texts(broken, twice)


def test_plates_of_drawn_scenes_are_known(tmp_path: Path) -> None:
    listing = {"objects": [{"kind": k, "text": k, "box": [1, 2, 3, 4]} for k in ("plate", "sign")]}
    (file := tmp_path / "objects/test/city/city_1_objects.json").parent.mkdir(parents=True)
    file.write_text(json.dumps(listing))
    (row,) = drawn_texts(tmp_path).to_dict("records")
    assert row == {"image": "test/city/city_1_leftImg8bit", "text": "plate", "x": 1, "y": 2, "width": 3, "height": 4}
