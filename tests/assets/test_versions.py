import json
from pathlib import Path

import pytest

from assets.versions import PARSED, Parsed, closure, commit, library_versions

SOURCE = '''
"""A module."""
import math  # a comment


def area(r):
    """Docstring."""
    return math.pi * r**2
'''


def syntax(source: str) -> str:
    return PARSED.module(source)[0]


def test_code_changes_the_digest_and_words_and_layout_do_not() -> None:
    other = "import math\n\ndef area(r):\n    # why\n    return math.pi * (r ** 2)\n"
    assert syntax(SOURCE) == syntax(other) != syntax(SOURCE.replace("r**2", "r**3"))
    assert syntax('def f():\n    """Only words."""\n') == syntax('def f():\n    """Other words."""\n')


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "models/__init__.py": "",
        "models/a.py": "def go():\n    from models.b import f\n    return f()\n",
        "models/b.py": "from models import c\n\ndef f():\n    return c.X\n",
        "models/c.py": "X = 1\n",
        "models/grid.py": "Y = 1\n",
        "models/lonely.py": "Z = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_imports_inside_functions_and_from_packages_are_followed(tree: Path) -> None:
    assert set(closure("models.a", root=tree)) == {"models.a", "models.b", "models.c", "models"}
    with pytest.raises(ModuleNotFoundError, match=r"models\.nowhere"):
        closure("models.nowhere", root=tree)


def test_what_is_not_imported_does_not_count(tree: Path) -> None:
    before = closure("models.a", root=tree)
    (tree / "models/lonely.py").write_text("Z = 2\n")
    assert closure("models.a", root=tree) == before
    (tree / "models/c.py").write_text("X = 2\n")
    assert closure("models.a", root=tree) != before


def test_grids_are_left_out_even_when_imported(tree: Path) -> None:
    (tree / "models/c.py").write_text("from models.grid import Y\nX = Y\n")
    left = frozenset({"models.grid"})
    before = closure("models.a", root=tree, left_out=left)
    (tree / "models/grid.py").write_text("Y = 5\n")
    assert closure("models.a", root=tree, left_out=left) == before and closure("models.a", root=tree) != before


@pytest.mark.parametrize(
    ("entries", "reached", "never"),
    [
        ("models.training.rate_distortion models.codecs.bls2017", "models.losses", "models.metrics assets."),
        ("assets.frames.resize", "assets.frames.colour", "models.training models.losses models.codecs"),
        ("assets.saliency.rgba", "assets.frames.encode", "models.training models.losses models.codecs"),
        ("assets.evaluation.measure", "models.metrics", "models.training"),
    ],
)  # fmt: skip
def test_what_computes_a_unit_is_what_it_imports(entries: str, reached: str, never: str) -> None:
    modules = set(closure(*entries.split()))
    assert not {m for m in modules if m.startswith(tuple(never.split()))} and reached in modules


def test_the_commit_without_git_and_as_an_image_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_versions()["torch"] != "absent"
    assert commit() == "" or len(commit().rstrip("+")) >= 7
    asked = commit.__wrapped__
    monkeypatch.setenv("PATH", "")
    assert asked() == ""
    monkeypatch.setenv("FOVEA_COMMIT", "0123456789ab")
    assert asked() == "0123456789ab"


def test_what_was_parsed_is_found_again_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cache" / "syntax.json"
    first = Parsed()
    first.keep_in(path)
    wanted = first.module("from models.errors import FoveaError\nX = 1  # one\n")
    first.save()
    assert not list(tmp_path.iterdir()), "no state is made for it"
    path.parent.parent.mkdir()
    first.save()
    second = Parsed()
    second.keep_in(path)
    assert second.modules == first.modules
    assert second.module("from models.errors import FoveaError\nX = 1  # one\n") == wanted
    assert not second.grown and second.module("X = 2\n")[0] != wanted[0]
    for damage in ("{", '["a"]', '{"a": 1}', '{"a": ["b"]}'):
        path.write_text(damage)
        third = Parsed()
        third.keep_in(path)
        assert third.modules == {} and third.module("from models.errors import FoveaError\nX = 1\n") == wanted
        third.save()
        assert len(json.loads(path.read_text())) == 1
