"""A codec's card: what records, sweeps and the planner know about a codec without loading it.

Every codec is a file with `CARD = Card(...)` at its top, in models/codecs/ or, a user's, in `FOVEA_CONFIG/codecs/`. A card
is read off the file's syntax tree, so it is written in literals, and nothing here imports torch. The file is executed
when the codec is built.
"""

import ast
import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

from pydantic import field_validator, model_validator

from models.config import config_folder
from models.errors import FoveaError
from models.mechanisms import Mechanism
from models.validation import Number, Typed, checked, unknown

Value = int | float | str
Objective = Literal["rate_distortion", "adversarial", "recurrent"]
Distortion = Literal["mse", "ms_ssim", "l1_ms_ssim"]
DISTORTIONS: tuple[Distortion, ...] = get_args(Distortion)
FOLDER = Path(__file__).parent / "codecs"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
_TEXT = re.compile(r"[A-Za-z0-9_.-]*")
FIELDS = frozenset({
    "alpha", "arm", "aux_lr", "batch", "batch_size", "channels", "checkpoint_every", "clip_norm", "codec", "crop", "dataset",
    "distortion", "ema", "evaluate_on", "fast", "final_lr_factor", "fresh_lr_factor", "from", "gamma", "iterations", "kind",
    "lmbda", "lr", "m", "maps", "mechanism", "mode", "n", "normalised", "objective", "on", "options", "overrides", "preset",
    "probe_every", "rate", "rate_name", "rates", "saliency", "scale", "seed", "shipped", "span", "steps", "threads", "trunk",
    "trunk_steps", "warmup_steps", "weighting",
})  # fmt: skip
"""What records, presets, keys and runs call values of every codec: no option has such a name."""
TRAINING = frozenset({"augment", "balance", "optimiser", "trim"})
"""What every objective reads of a record where it is there: names of options of the part `training` alone."""


class Rate(Typed):
    """What a codec's rate is chosen by.

    name: `lmbda`, the Lagrange multiplier, of which one model may have several; `channels`, the width m of the code,
    one a model; or `iterations`, of which one model has all up to its option of that name. unit: of the values. values:
    those that there are; none: any positive number.
    """

    name: Literal["lmbda", "channels", "iterations"]
    unit: str
    values: tuple[Number, ...] = ()


class Option(Typed):
    """A value of the codec's own, with its paper's as the default: a whole number, a number, or text.

    choices: what it may be. any_of: it is "" or some of these texts in alphabetical order, joined by +. least, most:
    bounds, themselves allowed; above: a bound that is not. part: who reads it.
    """

    default: Value
    choices: tuple[Value, ...] = ()
    any_of: tuple[str, ...] = ()
    least: Number | None = None
    above: Number | None = None
    most: Number | None = None
    part: Literal["codec", "training"] = "codec"

    @model_validator(mode="after")
    def _fits_keys(self) -> Self:
        if isinstance(self.default, str) and not (self.choices or self.any_of):
            raise FoveaError("a text as the default needs choices or any_of")
        for text in (*self.choices, *self.any_of):
            if isinstance(text, str) and not _TEXT.fullmatch(text):
                raise FoveaError(f"{text!r}: texts have letters, digits, _, - and . alone")
        return self

    def check(self, name: str, value: Any) -> None:
        """Raises FoveaError for a value that it cannot take."""
        if self.any_of:
            if not isinstance(value, str) or value != "+".join(sorted({*value.split("+")} & {*self.any_of})):
                raise FoveaError(
                    f"unknown {name} {value!r}; known: {', '.join(self.any_of)}, and several in alphabetical order joined by +"
                )
        elif self.choices:
            if value not in self.choices:
                raise FoveaError(f"option {name}={value!r}: it takes one of {', '.join(map(repr, self.choices))}")
        elif not self._in_range(value):
            raise FoveaError(f"option {name}={value!r}: it takes {self._range()}")

    def _in_range(self, value: Any) -> bool:
        if type(value) not in ((int,) if isinstance(self.default, int) else (int, float)):
            return False
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
        )

    def _range(self) -> str:
        words = ["a whole number" if isinstance(self.default, int) else "a number"]
        words += [f"from {self.least:g}"] if self.least is not None else []
        words += [f"above {self.above:g}"] if self.above is not None else []
        words += [f"to {self.most:g}"] if self.most is not None else []
        return " ".join(words)


class Card(Typed):
    """What a codec's file states.

    name: the citation key that records, tables and files use. codec: the name of the class in the same file, a `Codec`
    built from a `CodecConfig`. mechanisms: how a map may reach it. objective: what trains it (models/training/). Options
    of the part `training` are the objective's.
    """

    name: str
    paper: str
    codec: str
    rate: Rate
    mechanisms: tuple[Mechanism, ...] = ("none", "loss")
    distortions: tuple[Distortion, ...] = DISTORTIONS
    options: dict[str, Option] = {}
    objective: Objective = "rate_distortion"

    @field_validator("name")
    @classmethod
    def _fits_keys(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FoveaError(f"{name!r}: a codec's name has up to 40 small letters, digits and _")
        return name

    @field_validator("options")
    @classmethod
    def _are_told_apart(cls, options: dict[str, Option]) -> dict[str, Option]:
        for name, option in options.items():
            if not _NAME.fullmatch(name):
                raise FoveaError(f"option {name!r}: its name has up to 40 small letters, digits and _")
            if name in FIELDS:
                raise FoveaError(f"option {name} has the name of a field of every record: choose another name")
            if name in TRAINING and option.part != "training":
                raise FoveaError(
                    f'option {name} has the name of a value that training reads: choose another name, or part="training"'
                )
            option.check(name, option.default)
        return options

    @model_validator(mode="after")
    def _has_what_records_ask_for(self) -> Self:
        needed = ["unrolled"] if self.rate.name == "iterations" else []
        needed += ["chroma", "critic_scales", "jitter"] if self.objective == "adversarial" else []
        for name in needed:
            if name not in self.options or isinstance(self.options[name].default, str):
                raise FoveaError(f"a codec with this rate and objective needs the option {name}, a number")
        return self

    def check_mechanism(self, mechanism: str) -> None:
        """Raises FoveaError for one that it lacks."""
        if mechanism not in self.mechanisms:
            raise FoveaError(f"{self.name} has no mechanism {mechanism!r}: it has {', '.join(self.mechanisms)}")

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises FoveaError for an option that it lacks, or a value that the option cannot take."""
        for name, value in options.items():
            if name not in self.options:
                has = ", ".join(self.options) or "none"
                raise FoveaError(f"option {name}={value!r} is not for {self.name}: it has {has}")
            self.options[name].check(name, value)


class Found(NamedTuple):
    """A card and its file."""

    card: Card
    file: Path

    @property
    def module(self) -> str:
        """What its code version starts from: a module's name, or the path of a user's file."""
        return f"models.codecs.{self.file.stem}" if self.file.parent == FOLDER else str(self.file)


def read_card(file: Path) -> Card | None:
    """The card of a file; None where it has no CARD. Raises FoveaError that names file and field."""
    try:
        text = file.read_text(encoding="utf-8")
        if not re.search(r"^CARD\b", text, re.MULTILINE):
            return None
        tree = ast.parse(text)
    except SyntaxError as error:
        raise FoveaError(f"{file}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise FoveaError(f"{file}: can't be read: {error}") from None
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("CARD")], value=value)
                | ast.AnnAssign(target=ast.Name("CARD"), value=ast.expr() as value)
            ):
                card = checked(Card, _literal(value, file), f"{file}: CARD")
                if card.codec not in {n.name for n in tree.body if isinstance(n, ast.ClassDef)}:
                    raise FoveaError(f"{file}: CARD.codec: there is no class {card.codec!r} in this file")
                return card
    return None


def _literal(node: ast.expr, file: Path) -> Any:
    """What a literal says; calls of Card, Rate and Option as mappings of their keywords."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Card", "Rate", "Option") and not node.args:
        return {str(k.arg): _literal(k.value, file) for k in node.keywords}
    try:
        if isinstance(node, ast.Dict):
            keys = [ast.literal_eval(k) for k in node.keys if k is not None]
            return dict(zip(keys, (_literal(v, file) for v in node.values), strict=True))
        return ast.literal_eval(node)
    except ValueError:
        raise FoveaError(
            f"{file}, line {node.lineno}: CARD is read without running the file: write literals, and Card, Rate and "
            "Option with keywords"
        ) from None


class Cards(NamedTuple):
    """Every card by name, and what is wrong with the others: a line by the name of the file."""

    found: Mapping[str, Found]
    faults: Mapping[str, str]


def cards() -> Cards:
    """The codecs that there are, the shipped ones first; read once a process, as their code is. A user's faulty file, or one
    with the name of a codec that there is, is a line in `faults`."""
    return _cards(config_folder() / "codecs")


@functools.cache
def _cards(own: Path) -> Cards:
    found: dict[str, Found] = {}
    faults: dict[str, str] = {}
    for file in (*sorted(FOLDER.glob("*.py")), *sorted(own.glob("*.py"))):
        try:
            card = read_card(file)
        except FoveaError as error:
            faults[file.stem] = str(error)
            continue
        if card is not None and card.name not in found:
            found[card.name] = Found(card, file)
        elif card is not None:
            first = found[card.name].file
            faults[file.stem] = f"{file}: CARD.name: {card.name!r} is also the codec of {first}"
    return Cards(found, faults)


def find_card(codec: str) -> Found:
    """A codec's card and file. Raises FoveaError: the line that says what is wrong with its file, or which there are."""
    found, faults = cards()
    if codec in found:
        return found[codec]
    if codec in faults:
        raise FoveaError(faults[codec])
    if (file := config_folder() / "codecs" / f"{codec}.py").is_file():
        raise FoveaError(f"{file}: no CARD = Card(...) at its top")
    raise FoveaError("; ".join((unknown("codec", codec, found), *faults.values())))
