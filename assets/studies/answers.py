"""People's answers to studies: read, checked field by field, and kept in FOVEA_CONFIG/studies, where no state is deleted.

studies/STUDY/study.json              the design, written by `fovea study make`
studies/STUDY/answers/PARTICIPANT.json   one a participant, as read
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from assets.home import written_beside
from assets.studies.study import FORMAT, catches_needed
from models.errors import FoveaError

ANSWERS_FORMAT = "fovea-study-answers/1"
_STUDY, _PARTICIPANT = re.compile(r"[0-9a-f]{10}"), re.compile(r"[a-z0-9-]{4,40}")
_TEXTS = ("pair", "kind", "image", "left", "right", "choice", "chosen")
COLUMNS = ("study", "participant", "trial", *_TEXTS, "seconds")
#: whole numbers: how often the original was looked at, at how many of the screen's pixels the pictures were shown, and how
#: many they have
_COUNTS = ("looks", "shown_pixels", "picture_pixels")
#: below which share of its own size a picture counts as shown small; a frame may take a few pixels
SMALL = 0.95
_SCREEN = ("width", "height", "pixel_ratio", "touch")
#: where the reader puts cells beyond the header's
_MORE = "\0"
#: larger than any study's answers: what else a file of that name may hold is not read
_MAX_BYTES = 5_000_000
#: catch trials that a participant has to have seen: guessing passes four 1 time in 16
LEAST_CATCHES = 4


def studies_folder(config: Path) -> Path:
    """Where studies and answers are kept."""
    return config / "studies"


def keep_design(config: Path, design: Mapping[str, Any]) -> Path:
    """Write study.json; the same design twice is the same file."""
    path = studies_folder(config) / str(design["study"]) / "study.json"
    with written_beside(path) as beside:
        beside.write_text(json.dumps(design, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def read_design(config: Path, study: str) -> dict[str, Any]:
    """Raises FoveaError when the study is not known here or its file is damaged."""
    path = studies_folder(config) / study / "study.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = sorted(p.parent.name for p in studies_folder(config).glob("*/study.json"))
        raise FoveaError(
            f"study {study} is not known here (known: {', '.join(known) or 'none'}): bring its {path}, or make it again with the "
            "same `fovea study make`"
        ) from error
    except ValueError as error:
        raise FoveaError(f"{path} is damaged: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise FoveaError(f"{path}: not a design of this version ({FORMAT})")
    wrong = _damage(said, study)
    if wrong:
        raise FoveaError(
            f"{path} is damaged ({wrong}): bring it again, or make the study again with the same `fovea study make`; to do "
            "without it, move its folder away"
        )
    return said


def _damage(said: Mapping[str, Any], study: str) -> str:
    """What is wrong inside of a design, by field; nothing for a good one."""
    lacking = [name for name in ("study", "arms", "pairs", "catch") if name not in said]
    if lacking:
        return f"no {lacking[0]}"
    if said["study"] != study:
        return "it is another study"
    arms = said["arms"]
    if not isinstance(arms, list) or len(arms) != 2 or not all(isinstance(a, str) for a in arms):
        return "arms is not a list of two names"
    for name in ("dataset", "sweep"):
        if not isinstance(said.get(name), str):
            return f"{name} is not text"
    for name in ("seed", "tolerance", "mean_difference"):
        if not isinstance(said.get(name), int | float):
            return f"{name} is not a number"
    for name in ("pairs", "catch"):
        if not isinstance(said[name], list):
            return f"{name} is not a list"
        for place, item in enumerate(said[name]):
            texts = isinstance(item, dict) and all(isinstance(item.get(k), str) for k in ("pair", "image"))
            if not texts:
                return f"{name}[{place}] has no pair or no image"
            if name == "pairs":
                sides = item.get("sides")
                if (
                    not isinstance(sides, list)
                    or len(sides) != 2
                    or not all(isinstance(s, dict) and isinstance(s.get("arm"), str) for s in sides)
                ):
                    return f"pairs[{place}].sides is not a list of two arms"
    return ""


def read_answers(file: Path) -> dict[str, Any]:
    """study, participant and answers of one file that a study's page saved, JSON or CSV.

    Raises FoveaError that names the file and the field.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise FoveaError(f"{file}: {file.stat().st_size} bytes are no study's answers")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FoveaError(
            f"{file}: not a text file; give what the study's page saved (JSON or CSV)"
        ) from error
    except OSError as error:
        raise FoveaError(f"cannot read {file}: {error.strerror}") from error
    said = _from_json(file, text) if text.lstrip().startswith(("{", "[")) else _from_csv(file, text)
    if not said["answers"]:
        raise FoveaError(f"{file}: answers is empty")
    for name, pattern in (("study", _STUDY), ("participant", _PARTICIPANT)):
        if not isinstance(said[name], str) or not pattern.fullmatch(said[name]):
            raise FoveaError(f"{file}: {name} {said[name]!r} is not what a study's page writes")
    return said


def _from_json(file: Path, text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text, parse_constant=lambda name: math.nan)
    except (ValueError, RecursionError) as error:
        raise FoveaError(f"{file}: not JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("format") != ANSWERS_FORMAT:
        raise FoveaError(f"{file}: format is not {ANSWERS_FORMAT!r}")
    for name in ("study", "participant", "answers"):
        if name not in raw:
            raise FoveaError(f"{file}: {name} is missing")
    if not isinstance(raw["answers"], list):
        raise FoveaError(f"{file}: answers is not a list")
    found = []
    for place, item in enumerate(raw["answers"]):
        where = f"{file}: answers[{place}]"
        if not isinstance(item, dict):
            raise FoveaError(f"{where} is not an object")
        found.append(_answer(where, item))
    screen = raw.get("screen", {})
    if not isinstance(screen, dict):
        raise FoveaError(f"{file}: screen is not an object")
    return {
        "study": raw["study"],
        "participant": raw["participant"],
        "screen": {k: screen[k] for k in _SCREEN if k in screen},
        "answers": found,
    }


def _from_csv(file: Path, text: str) -> dict[str, Any]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restkey=_MORE, strict=True))
    except csv.Error as error:
        raise FoveaError(f"{file}: not CSV ({error})") from error
    header = next(csv.reader(io.StringIO(text)), [])
    missing = [c for c in COLUMNS if c not in header]
    if missing:
        raise FoveaError(
            f"{file}: column {missing[0]} is missing; give what the study's page saved (JSON or CSV)"
        )
    found, names = [], {"study": "", "participant": ""}
    screen: dict[str, Any] = {}
    for line, row in enumerate(rows, start=2):
        cells = len(row.pop(_MORE, ())) + sum(v is not None for v in row.values())
        if cells != len(header):
            raise FoveaError(
                f"{file}: line {line} has {cells} cells, the header {len(header)}; a program that writes 1,5 for 1.5 does "
                "that: give the file as the study's page saved it"
            )
        for name, before in names.items():
            if before and row[name] != before:
                raise FoveaError(f"{file}: line {line}, {name} {row[name]!r} differs from {before!r} above")
            names[name] = row[name] or ""
        values: dict[str, Any] = dict(row)
        for name, kind in (("trial", int), ("seconds", float)):
            try:
                values[name] = kind(row[name])
            except (TypeError, ValueError) as error:
                raise FoveaError(f"{file}: line {line}, {name} {row[name]!r} is not a number") from error
        for name in _COUNTS:
            if row.get(name, "") != "":
                values[name] = int(row[name]) if str(row[name]).isdecimal() else row[name]
        screen = {k: json.loads(row[f"screen_{k}"]) for k in _SCREEN if _is_json(row.get(f"screen_{k}"))}
        found.append(_answer(f"{file}: line {line}", values))
    return {**names, "screen": screen, "answers": found}


def _is_json(text: Any) -> bool:
    try:
        json.loads(text)
    except (TypeError, ValueError):
        return False
    return True


def _answer(where: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """One answer with its fields, types checked."""
    for name in ("trial", *_TEXTS, "seconds"):
        if name not in item or item[name] is None:
            raise FoveaError(f"{where}: {name} is missing")
    for name in _TEXTS:
        if not isinstance(item[name], str):
            raise FoveaError(f"{where}: {name} {item[name]!r} is not text")
    trial, seconds = item["trial"], item["seconds"]
    if isinstance(trial, bool) or not isinstance(trial, int) or trial < 1:
        raise FoveaError(f"{where}: trial {trial!r} is not a number from 1")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise FoveaError(f"{where}: seconds {seconds!r} is not a time")
    if item["choice"] not in ("left", "right"):
        raise FoveaError(f"{where}: choice {item['choice']!r} is neither left nor right")
    if item["chosen"] != item[item["choice"]]:
        raise FoveaError(
            f"{where}: chosen {item['chosen']!r} is not what was on the {item['choice']}, {item[item['choice']]!r}"
        )
    counts = {name: item[name] for name in _COUNTS if item.get(name, "") != ""}
    for name, value in counts.items():
        if type(value) is not int or not 0 <= value < 1e9:
            raise FoveaError(f"{where}: {name} {value!r} is not a whole number")
    return {name: item[name] for name in ("trial", *_TEXTS)} | {"seconds": float(seconds)} | counts


def check_against(file: Path, said: Mapping[str, Any], design: Mapping[str, Any]) -> None:
    """Raises FoveaError when an answer is to a question that the study did not ask, or to one twice."""
    sides = {p["pair"]: ("pair", p["image"], {s["arm"] for s in p["sides"]}) for p in design["pairs"]}
    sides |= {c["pair"]: ("catch", c["image"], {"original", "heavily compressed"}) for c in design["catch"]}
    seen: dict[str, set[Any]] = {"pair": set(), "trial": set()}
    for place, answer in enumerate(said["answers"]):
        where = f"{file}: answer {place + 1}"
        for name, values in seen.items():
            if answer[name] in values:
                raise FoveaError(f"{where}: {name} {answer[name]!r} is answered twice")
            values.add(answer[name])
        if answer["pair"] not in sides:
            raise FoveaError(f"{where}: pair {answer['pair']!r} is not in study {design['study']}")
        kind, image, names = sides[answer["pair"]]
        for name, wanted in (("kind", kind), ("image", image)):
            if answer[name] != wanted:
                raise FoveaError(f"{where}: {name} {answer[name]!r}, but {answer['pair']} is {wanted!r}")
        if {answer["left"], answer["right"]} != names:
            raise FoveaError(
                f"{where}: left and right are {answer['left']!r} and {answer['right']!r}, but {answer['pair']} compares "
                f"{' and '.join(sorted(names))}"
            )


def import_answers(config: Path, files: Sequence[Path]) -> tuple[list[str], int, int]:
    """Check all files, then keep them: (studies touched, files that are new, files that were there already).

    A participant's answers are kept once, whichever file brings them. Raises FoveaError, and keeps nothing, when a file is
    bad or brings other answers of a participant who is there already.
    """
    fresh: dict[Path, dict[str, Any]] = {}
    origin: dict[Path, Path] = {}
    studies: list[str] = []
    known = 0
    for file in files:
        said = read_answers(file)
        check_against(file, said, read_design(config, said["study"]))
        studies.append(said["study"])
        path = studies_folder(config) / said["study"] / "answers" / f"{said['participant']}.json"
        before = fresh.get(path) or (read_answers(path) if path.exists() else None)
        if before is None:
            fresh[path], origin[path] = said, file
        elif _answered(before) == _answered(said):
            known += 1
        else:
            raise FoveaError(
                f"{file}: participant {said['participant']} is there already with other answers ({origin.get(path, path)}); "
                "delete one of the two"
            )
    for path, said in fresh.items():
        with written_beside(path) as beside:
            beside.write_text(
                json.dumps({"format": ANSWERS_FORMAT, **said}, indent=1, ensure_ascii=False), encoding="utf-8"
            )
    return list(dict.fromkeys(studies)), len(fresh), known


def _answered(said: Mapping[str, Any]) -> list[list[Any]]:
    """What was answered, in the order of the trials, without sizes and looks: not each file has them."""
    return sorted([answer[name] for name in ("trial", *_TEXTS, "seconds")] for answer in said["answers"])


def counted_answers(config: Path, design: Mapping[str, Any]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The answers that count: participant, image, second (whether the design's second arm was chosen), small (whether the
    pictures were shown at fewer pixels than they have; None where the file does not say); who was dropped, why.

    A participant counts who saw at least `LEAST_CATCHES` catch trials, or all of a study that has fewer, and got
    `catches_needed` of them right: one alone is passed by half of those who guess.
    """
    rows, dropped = [], {}
    folder = studies_folder(config) / str(design["study"]) / "answers"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        said = read_answers(path)
        check_against(path, said, design)
        catches = [a for a in said["answers"] if a["kind"] == "catch"]
        right = sum(a["chosen"] == "original" for a in catches)
        needed = min(LEAST_CATCHES, len(design["catch"]))
        if len(catches) < max(1, needed):
            seen = (
                f"{len(catches)} of the {needed} catch trials that it takes" if catches else "no catch trial"
            )
            dropped[said["participant"]] = f"saw {seen}"
            continue
        if right < catches_needed(len(catches)):
            dropped[said["participant"]] = f"{right} of {len(catches)} catch trials right"
            continue
        rows += [
            {
                "participant": said["participant"],
                "image": a["image"],
                "second": a["chosen"] == design["arms"][1],
                "small": a["shown_pixels"] < SMALL * a["picture_pixels"]
                if "shown_pixels" in a and "picture_pixels" in a
                else None,
            }
            for a in said["answers"]
            if a["kind"] == "pair"
        ]
    return pd.DataFrame(rows, columns=["participant", "image", "second", "small"]), dropped


def known_studies(config: Path) -> list[str]:
    """Every study that was made here."""
    return sorted(p.parent.name for p in studies_folder(config).glob("*/study.json"))
