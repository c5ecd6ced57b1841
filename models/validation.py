"""What a person typed (tables of TOML, cards of codecs, records) as frozen pydantic models, their faults as one line each."""

import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from models.errors import FoveaError

Model = TypeVar("Model", bound=BaseModel)

MOST = 1e12
"""Below it a rate times a picture's pixels is a number."""

Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Seed = Annotated[int, Strict(), Field(ge=0, lt=1 << 63)]


class Typed(BaseModel):
    """A frozen, hashable model without unknown fields; equal values of other types (a list for a tuple) are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Typed):
    """A model that is built in code, by keywords. Raises FoveaError that names the field."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise FoveaError(complaint(error, type(self))) from None

    def but(self, **changes: Any) -> Self:
        """The same record with other values, checked like a new one."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def checked(kind: type[Model], values: Any, where: str, context: Any = None) -> Model:
    """`values` as a model; context: what its validators are told. Raises FoveaError whose line begins with `where`, a dot
    and the field."""
    try:
        return kind.model_validate(values, context=context)
    except ValidationError as error:
        raise FoveaError(complaint(error, kind, where)) from None


def complaint(error: ValidationError, kind: type[BaseModel], where: str = "") -> str:
    """One fault in words, a misspelled field before what it leaves missing: the field, and what would be right."""
    first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    path = [str(part) for part in first["loc"]]

    def place(parts: Sequence[str]) -> str:
        named = ".".join((*([where] if where else []), *parts))
        return f"{named}: " if named else ""

    match first["type"]:
        case "extra_forbidden":
            return f"{place(path[:-1])}{unknown('field', path[-1], _fields(kind, path[:-1]))}"
        case "missing":
            return f"{place(path)}missing"
        case "too_short":
            return f"{place(path)}expected at least {first['ctx']['min_length']}, got {first['input']!r:.80}"
        case "value_error":
            return f"{place(path)}{first['ctx']['error']}"
        case _:
            said = first["msg"].replace("Input should be", "expected", 1)
            said = said.replace("a valid tuple", "a list").replace("a valid dictionary", "a table")
            return f"{place(path)}{said[0].lower()}{said[1:]}, got {first['input']!r:.80}"


def check_rates(lmbda: float | None, bpp: float | None, mark: str = "") -> None:
    """Raises FoveaError for one that is no positive number, and for both. mark: what stands before an option's name."""
    for name, rate in ((f"{mark}lmbda", lmbda), (f"{mark}bpp", bpp)):
        if rate is not None and not 0 < rate < MOST:
            raise FoveaError(f"{name} {rate:g}: a positive number below {MOST:g} is needed")
    if bpp is not None and lmbda is not None:
        raise FoveaError(f"give either {mark}lmbda or {mark}bpp, not both")


def printable(text: object, keep: str = "") -> str:
    """A name or a message as a terminal may have it: \\x… and \\u… for characters that steer it or turn the direction of what
    follows, but for those in `keep`, and for bytes that are not UTF-8. Names of files hold anything."""
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return found[0] if found[0] in keep else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", escaped, shown)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown field 'ratez'; did you mean 'rates'?`, or what there is where nothing is near, cut after 600 characters."""
    near = difflib.get_close_matches(name, known := list(known), n=1)
    return f"unknown {what} {name!r}; " + (
        f"did you mean {near[0]!r}?"
        if near
        else f"known: {textwrap.shorten(', '.join(known), 600, placeholder=' …')}"
        if known
        else "there is none"
    )


def _fields(kind: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Names of the fields of the model at a path within `kind`; keys of mappings and places in lists are passed over."""
    for part in path:
        if part in kind.model_fields:
            kind = _model_within(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_within(inner) for inner in getattr(annotation, "__args__", ()))
    return next((kind for kind in found if kind is not None), None)
