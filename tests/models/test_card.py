from pathlib import Path
from typing import get_args

import pytest

from models.card import FIELDS, FOLDER, TRAINING, Card, Option, Rate, cards, find_card, read_card
from models.codecs.base import Codec, CodecConfig
from models.codecs.catalogue import build
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.presets import Preset
from models.sweeps import sweep
from models.training.rate_distortion import Plan, Weighting

TOY = (Path(__file__).parents[1] / "e2e" / "toy" / "codecs" / "toy.py").read_text()
RATE = 'rate=Rate(name="lmbda", unit="Lagrange multiplier of 255² · MSE"),'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("    paper=", "    papper="), "CARD: unknown field 'papper'; did you mean 'paper'?"),
        ((RATE, 'rate=Rate(name="lmbda"),'), "CARD.rate.unit: missing"),
        ((RATE, ""), "CARD.rate: missing"),
        ((RATE, 'rate=Rate(name="lambda", unit=""),'), "CARD.rate.name: expected 'lmbda', 'channels' or 'iterations'"),
        (("choices=(5, 7)", "chosen=(5, 7)"), "CARD.options.kernel: unknown field 'chosen'; did you mean 'choices'?"),
        (("default=5, ", "default=4, "), "CARD.options: option kernel=4: it takes one of 5, 7"),
        (('"gain")', '"pain")'), "CARD.mechanisms.2: expected 'none'"),
        (('codec="Toy"', 'codec="Joy"'), "CARD.codec: there is no class 'Joy' in this file"),
        (("mechanisms=(", "mechanisms=tuple("), "CARD is read without running the file"),
        (('name="toy"', 'name="bls2017"'), "CARD.name: 'bls2017' is also the codec of "),
        (("class Toy", "classs Toy"), "invalid syntax"),
        (("default=5, choices=(5, 7)", 'default=""'), "CARD.options.kernel: a text as the default needs choices or any_of"),
        (("choices=(5, 7)", 'least="1"'), "CARD.options.kernel.least: expected a valid number, got '1'"),
        (('unit="Lagrange', 'values=("1",), unit="Lagrange'), "CARD.rate.values.0: expected a valid number, got '1'"),
        (("default=5, choices=(5, 7)", 'default="", choices=("", "a/b")'), "CARD.options.kernel: 'a/b': texts have letters, digits"),
        (("default=5, choices=(5, 7)", 'default="", any_of=("a=b",)'), "CARD.options.kernel: 'a=b': texts have letters, digits"),
        (('"kernel"', '"lr"'), "CARD.options: option lr has the name of a field of every record: choose another name"),
        (('"kernel"', '"augment"'), "CARD.options: option augment has the name of a value that training reads"),
        (('"kernel"', '"my kernel"'), "CARD.options: option 'my kernel': its name has up to 40 small letters, digits and _"),
        (('name="toy"', 'name="g mix/x"'), "CARD.name: 'g mix/x': a codec's name has up to 40 small letters, digits and _"),
        (('name="toy"', 'name="x@sample"'), "CARD.name: 'x@sample': a codec's name has"),
        (('name="toy"', 'name=""'), "CARD.name: '': a codec's name has"),
        ((RATE, 'rate=Rate(name="iterations", unit=""),'), "CARD: a codec with this rate and objective needs the option unrolled"),
        ((RATE, f'{RATE} objective="adversarial",'), "CARD: a codec with this rate and objective needs the option chroma, a number"),
    ],
)  # fmt: skip
def test_a_wrong_card_is_one_line_where_it_is_needed_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], said: str
) -> None:
    assert change[0] in TOY
    file = tmp_path / "codecs" / "toy.py"
    file.parent.mkdir()
    for name in ("toy.py", "bls2017.py"):
        file.with_name(name).write_text(TOY.replace(*change))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    with pytest.raises(FoveaError) as raised:
        find_card("toy")
    line = str(raised.value)
    assert line.startswith(str(file)) and said in line and "\n" not in line
    with pytest.raises(FoveaError, match=r"unknown codec 'other'; known: .*bls2017.*; ") as raised:
        Experiment(dataset="sample", codec="other")
    assert line in str(raised.value) and sweep("smoke", "sample").experiments
    assert find_card("bls2017").file.parent == FOLDER


def test_a_file_without_a_card_is_spoken_of_where_its_codec_is_asked_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "codecs").mkdir()
    file = tmp_path / "codecs" / "toy.py"
    file.write_text(TOY.replace("CARD = ", "CARDS = "))
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    with pytest.raises(FoveaError, match=r"toy\.py: no CARD = Card\(\.\.\.\) at its top"):
        find_card("toy")
    with pytest.raises(FoveaError) as raised:
        find_card("other")
    assert "toy.py" not in str(raised.value)


@pytest.mark.parametrize("spelling", ["CARD: Card = ", "CARD=", "CARD  = "])
def test_a_card_is_found_however_it_is_written(tmp_path: Path, spelling: str) -> None:
    file = tmp_path / "toy.py"
    file.write_text(TOY.replace("CARD = ", spelling))
    card = read_card(file)
    assert card is not None and card.name == "toy"


def test_no_option_can_have_the_name_of_what_records_and_runs_hold() -> None:
    trunk = Trunk(dataset="sample", codec="mbt2018_mean", overrides={"fresh_lr_factor": 2})
    records = (trunk, Experiment(dataset="sample", codec="bls2017", trunk=None))
    named = {name for record in records for name in record.resolved()}
    named |= {name for kind in (Trunk, Experiment, Preset) for name in kind.model_fields}
    named |= {*Plan._fields, *Weighting._fields, *get_args(Rate.model_fields["name"].annotation)}
    assert named <= FIELDS | TRAINING and not {"rate", "rate_name", "threads"} - FIELDS
    options = {name for found in cards().found.values() for name in found.card.options}
    assert not options & (FIELDS | TRAINING)
    told = Card(
        name="a", paper="", codec="A", rate=Rate(name="lmbda", unit=""),
        options={"augment": Option(default=0.5, part="training")},
    )  # fmt: skip
    assert told.options["augment"].default == 0.5


def test_every_card_s_class_takes_what_the_card_says() -> None:
    assert not cards().faults
    for name, found in cards().found.items():
        rates = found.card.rate.values[:1] or (0.01,)
        lambdas = rates if found.card.rate.name == "lmbda" else ()
        codec = build(CodecConfig(codec=name, n=16, m=int(rates[0]) or 8, lmbda=lambdas))
        if found.card.rate.name == "iterations":
            rates = tuple(float(t) for t in range(1, 17))
        assert isinstance(codec, Codec) and codec.rates == rates
        with pytest.raises(FoveaError, match=f"{name} has no mechanism 'hope'"):
            build(CodecConfig(codec=name, n=16, m=8, mechanism="hope"))
        with pytest.raises(FoveaError, match=f"option wings=2 is not for {name}"):
            build(CodecConfig(codec=name, n=16, m=8, options=(("wings", 2),)))


def test_a_user_s_codec_is_built_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codecs").mkdir()
    text = TOY.replace('name="toy"', 'name="mine"')
    (tmp_path / "codecs" / "mine.py").write_text(text)
    (tmp_path / "codecs" / "fails.py").write_text(text.replace('"mine"', '"fails"') + "\n1 / 0\n")
    monkeypatch.setenv("FOVEA_CONFIG", str(tmp_path))
    codec = build(CodecConfig(codec="mine", n=4, m=6, options=(("kernel", 7),)))
    assert type(codec).__name__ == "Toy" and codec.state_dict()["g_a.0.weight"].shape == (4, 3, 7, 7)
    with pytest.raises(FoveaError, match=r"fails\.py: ZeroDivisionError: division by zero"):
        build(CodecConfig(codec="fails", n=4, m=6))
