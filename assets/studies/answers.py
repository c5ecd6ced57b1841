"""People's answers to studies: read, checked field by field and against the design, and kept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import BaseModel, Field, ValidationError, model_validator

from assets.home import read_whole, write_whole
from assets.studies.design import Design, read_design
from models.errors import FoveaError
from models.validation import complaint

#: below which share of its own size a picture counts as shown small; a frame may take a few pixels
SMALL = 0.95
#: larger than any study's answers: what else a file of that name may hold is not read
_MAX_BYTES = 5_000_000
#: catch trials that a participant has to have seen: guessing passes four 1 time in 16
LEAST_CATCHES = 4
_Count = Annotated[int, Field(ge=0, lt=10**9)]


class Answer(BaseModel, frozen=True):
    """One trial. seconds: until the answer; looks: how often the original was looked at; shown_pixels, picture_pixels: at
    how many of the screen's pixels the pictures were shown across, and how many they have."""

    trial: int = Field(ge=1)
    pair: str
    kind: str
    image: str
    left: str
    right: str
    choice: Literal["left", "right"]
    chosen: str
    seconds: float = Field(ge=0, lt=1e9)
    looks: _Count
    shown_pixels: _Count
    picture_pixels: _Count

    @property
    def small(self) -> bool:
        """Whether the pictures were shown at fewer pixels than they have."""
        return self.shown_pixels < SMALL * self.picture_pixels

    @model_validator(mode="after")
    def _chosen_lies_there(self) -> Self:
        there = self.left if self.choice == "left" else self.right
        if self.chosen != there:
            raise ValueError(f"chosen {self.chosen!r} is not what was on the {self.choice}, {there!r}")
        return self


class Answers(BaseModel, frozen=True):
    """What a study's page saves, under the participant's random name. screen: sizes of the window and its pixels."""

    format: Literal["fovea-study-answers/1"] = "fovea-study-answers/1"
    study: str = Field(pattern=r"^[0-9a-f]{10}$")
    participant: str = Field(pattern=r"^[a-z0-9-]{4,40}$")
    screen: dict[str, float | bool] = {}
    answers: tuple[Answer, ...] = Field(min_length=1)


def read_answers(file: Path) -> Answers:
    """One file that a study's page saved. Raises FoveaError that names the file and the field."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{file.stat().st_size} bytes are no study's answers")
        return Answers.model_validate_json(read_whole(file).decode("utf-8-sig"), strict=True)
    except OSError as error:
        raise FoveaError(f"cannot read {file}: {error.strerror}") from error
    except FoveaError:
        raise
    except UnicodeDecodeError:
        raise FoveaError(f"{file}: not a text file (give what the study's page saved)") from None
    except ValueError as error:
        wrong = complaint(error, Answers) if isinstance(error, ValidationError) else str(error)
        raise FoveaError(f"{file}: {wrong} (give what the study's page saved)") from error


def check_against(file: Path, said: Answers, design: Design) -> None:
    """Raises FoveaError when an answer is to a question that the study did not ask, or to one twice."""
    asked = {q.pair: (kind, q.image, sorted(names)) for kind, q, names in design.trials()}
    seen = set()
    for place, answer in enumerate(said.answers, start=1):
        where = f"{file}: answer {place}"
        for once in (("pair", answer.pair), ("trial", answer.trial)):
            if once in seen:
                raise FoveaError(f"{where}: {once[0]} {once[1]!r} is answered twice")
            seen.add(once)
        if answer.pair not in asked:
            raise FoveaError(f"{where}: pair {answer.pair!r} is not in study {design.study}")
        found = (answer.kind, answer.image, sorted((answer.left, answer.right)))
        for name, *values in zip(("kind", "image", "left and right"), found, asked[answer.pair], strict=True):
            if values[0] != values[1]:
                raise FoveaError(f"{where}: {name} {values[0]!r}, but {answer.pair} is {values[1]!r}")


def import_answers(config: Path, files: Sequence[Path]) -> tuple[list[str], int, int]:
    """Check all files, then keep them: (studies touched, files that are new, files that were there already).

    A participant's answers are kept once, whichever file brings them. Raises FoveaError, and keeps nothing, when a file is
    bad or brings other answers of a participant who is there already.
    """
    fresh: dict[Path, tuple[Path, Answers]] = {}
    studies = []
    for file in files:
        said = read_answers(file)
        check_against(file, said, read_design(config, said.study))
        studies.append(said.study)
        path = config / "studies" / said.study / "answers" / f"{said.participant}.json"
        origin, before = fresh.get(path) or (path, read_answers(path) if path.exists() else None)
        if before is None:
            fresh[path] = file, said
        elif before.answers != said.answers:
            there = f"participant {said.participant} is there already with other answers ({origin})"
            raise FoveaError(f"{file}: {there}; delete one of the two")
    for path, (_, said) in fresh.items():
        write_whole(path, said.model_dump_json(indent=1))
    return list(dict.fromkeys(studies)), len(fresh), len(files) - len(fresh)


def catches_needed(seen: int) -> int:
    """How many of so many catch trials must be right: the fewest that one guesser in sixteen reaches, at most; all of them
    where there are too few for that."""
    passing = (sum(math.comb(seen, right) for right in range(needed, seen + 1)) for needed in range(seen))
    return next((needed for needed, ways in enumerate(passing) if 16 * ways <= 2**seen), seen)


def counted_answers(config: Path, design: Design) -> tuple[pd.DataFrame, dict[str, str]]:
    """The answers that count: participant, image, second (whether the design's second arm was chosen), small (see
    `Answer`); and who was dropped, why.

    A participant counts who saw at least `LEAST_CATCHES` catch trials, or all of a study that has fewer, and got
    `catches_needed` of them right: one alone is passed by half of those who guess.
    """
    dropped, rows = {}, []
    least = min(LEAST_CATCHES, len(design.catch))
    for path in sorted((config / "studies" / design.study / "answers").glob("*.json")):
        said = read_answers(path)
        check_against(path, said, design)
        right = [answer.chosen == "original" for answer in said.answers if answer.kind == "catch"]
        if not right:
            dropped[said.participant] = "saw no catch trial"
        elif len(right) < least:
            dropped[said.participant] = f"saw {len(right)} of the {least} catch trials that it takes"
        elif sum(right) < catches_needed(len(right)):
            dropped[said.participant] = f"{sum(right)} of {len(right)} catch trials right"
        else:
            pairs = (answer for answer in said.answers if answer.kind == "pair")
            rows += [(said.participant, a.image, a.chosen == design.arms[1], a.small) for a in pairs]
    return pd.DataFrame(rows, columns=["participant", "image", "second", "small"]), dropped
