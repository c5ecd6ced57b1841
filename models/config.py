"""What a person typed: the folder `FOVEA_CONFIG` with `fovea.toml` and, if they write codecs, `codecs/`."""

import functools
import os
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from models.errors import FoveaError

SETTINGS_FILE: Final = "fovea.toml"
TABLES: Final = ("datasets", "profiles", "presets", "sweeps")
"""Tables of the file; each holds tables by name."""


PROJECT: Final = Path(__file__).resolve().parent.parent


def usual_place() -> Path:
    """Where state and settings lie when nothing says otherwise: in the clone; where Fovea is installed as a package, in the
    working directory."""
    return PROJECT if (PROJECT / "pyproject.toml").is_file() else Path.cwd()


def expanded(path: str | Path, where: str = "") -> Path:
    """A path with ~ and ~NAME expanded. where: who names it, such as "FOVEA_HOME: ". Raises FoveaError for a NAME without a
    home here."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FoveaError(f"{where}{path}: nobody of this name has a home here; write the whole path") from None


def count_in(variable: str, usual: int) -> int:
    """The whole number from 0 on in an environment variable. Raises FoveaError for anything else."""
    said = os.environ.get(variable, "").strip()
    if said and not (said.isascii() and said.isdigit()):
        raise FoveaError(f"{variable}: expected a whole number from 0 on, got {said!r}")
    return int(said or usual)


def pin_folders() -> None:
    """Make FOVEA_HOME and FOVEA_CONFIG mean the same to every process that this one starts, wherever that runs."""
    installed = usual_place() != PROJECT
    for name, usual in (("FOVEA_HOME", ".fovea"), ("FOVEA_CONFIG", ".")):
        if given := os.environ.get(name) or (usual if installed else ""):
            os.environ[name] = str(expanded(given, f"{name}: ").absolute())


def config_folder() -> Path:
    """FOVEA_CONFIG, default `usual_place`. Raises FoveaError where it names a file."""
    return _folder(os.environ.get("FOVEA_CONFIG") or str(usual_place()))


@functools.lru_cache(maxsize=16)
def _folder(named: str) -> Path:
    folder = expanded(named, "FOVEA_CONFIG: ").resolve()
    if folder.is_file() or folder.suffix == ".toml":
        raise FoveaError(f"FOVEA_CONFIG names the file {folder}; it must be the folder that holds {SETTINGS_FILE}")
    return folder


def read_tables(file: Path, table: str) -> dict[str, Any]:
    """The tables `[TABLE.NAME]` of a TOML file by name, {} without the file. Raises FoveaError for a file that can't be
    read, no TOML, an unknown table; names file and key."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FoveaError(f"{file}: can't be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FoveaError(f"{file}: a folder, pipe or device, not a file")
    return dict(_read(file, status.st_mtime_ns, status.st_size)[table])


@functools.lru_cache(maxsize=16)
def _read(file: Path, modified_ns: int, size: int) -> dict[str, dict[str, Any]]:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FoveaError(f"{file}: can't be read: {error}") from error
    except UnicodeDecodeError as error:
        raise FoveaError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        twice = ": two tables of one name? Rename or delete one" if "twice" in str(error) else ""
        raise FoveaError(f"{file}: {error}{twice}") from error
    if strange := sorted(set(document) - set(TABLES)):
        raise FoveaError(f"{file}: unknown key {', '.join(strange)}; known are {', '.join(TABLES)}")
    for name, tables in document.items():
        if not isinstance(tables, dict):
            raise FoveaError(f"{file}: {name}: expected tables [{name}.NAME], got {tables!r}")
    return {name: document.get(name, {}) for name in TABLES}
