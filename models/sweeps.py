"""Sweeps: named grids of experiments on one dataset, `[sweeps.NAME]` of sweeps.toml and of the user's fovea.toml.

```toml
[sweeps.toy]
about = "One line that `fovea` shows."
codecs = ["bls2017"]                        # every combination of codecs, seeds, arms, settings and rates
arms = ["uniform", "saliency_gain"]
controls = ["center"]                       # adds the controls of these arms
rates = [0.0016, 0.0045, 0.013, 0.036]      # an experiment each, or with `variable = true` one for all
preset = "smoke"
trunk = "shipped"                           # "own": one is trained; "none": from scratch (the default)
settings = [{ span = 2.0 }, { span = 4.0 }] # fields of the record, one variant each
also_on = ["kodak"]                         # measured there, too, where it is registered
grids = [{}, { arms = ["weighted"] }]       # several grids: each has the table's own fields where it says nothing
```
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from models.arms import arm, with_controls
from models.card import find_card
from models.codecs.catalogue import shipped
from models.config import SETTINGS_FILE, config_folder, read_tables
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.validation import Flag, Number, Seed, Typed, checked, unknown

SHIPPED = Path(__file__).with_suffix(".toml")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Sweep:
    """A named grid on one dataset."""

    name: str
    dataset: str
    experiments: tuple[Experiment, ...]
    about: str = ""

    def __post_init__(self) -> None:
        keys = [e.key for e in self.experiments]
        if len(set(keys)) != len(keys):
            raise FoveaError(f"sweep {self.name}: an experiment stands in it twice")

    @property
    def key(self) -> str:
        """The partition of tables and report: `dataset.sweep`."""
        return f"{self.dataset}.{self.name}"

    @property
    def trunks(self) -> tuple[Trunk, ...]:
        """Each trunk that an experiment starts from, once, in order."""
        return tuple(dict.fromkeys(e.trunk for e in self.experiments if e.trunk is not None))


class Grid(Typed):
    """Every combination, one experiment a rate; with `variable` one for all of them, a variable-rate model.

    settings: fields of the record that replace the arm's own; an arm that does not use them stands in the grid once.
    trunk: `own` trains one for each codec and seed (and rate, where one model has one), from which all arms branch;
    `shipped` branches from the weights that come with Fovea; `none` trains from scratch. trunk_overrides are of an own
    trunk alone; trunk_options are added to its branches'. listed: among the sweeps that are named where one is not known.
    """

    about: str = ""
    listed: Flag = True
    codecs: tuple[str, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(("uniform",), min_length=1)
    controls: tuple[str, ...] = ()
    rates: tuple[Number, ...] = Field(min_length=1)
    variable: Flag = False
    preset: str
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    trunk: Literal["none", "own", "shipped"] = "none"
    trunk_overrides: dict[str, Any] = {}
    trunk_options: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    options: dict[str, Any] = {}
    settings: tuple[dict[str, Any], ...] = Field(({},), min_length=1)
    evaluate_on: tuple[str, ...] = ()
    also_on: tuple[str, ...] = ()

    def experiments(self, dataset: str, also_on: tuple[str, ...]) -> Iterator[Experiment]:
        """The records, equal ones as often as they stand in the grid. Raises FoveaError for one that cannot be."""
        evaluate_on = tuple(dict.fromkeys((*(self.evaluate_on or (dataset,)), *also_on)))
        arms = with_controls(self.arms, self.controls)
        rates_of_each = [self.rates] if self.variable else [(rate,) for rate in self.rates]
        grid = itertools.product(self.codecs, self.seeds, arms, self.settings, rates_of_each)
        for codec, seed, name, setting, rates in grid:
            values = self._values(codec, seed, setting)
            yield Experiment(
                dataset=dataset,
                rates=rates,
                trunk=self._trunk(dataset, rates, values),
                evaluate_on=evaluate_on,
                **{**arm(name), **values},
            )

    def _values(self, codec: str, seed: int, setting: Mapping[str, Any]) -> dict[str, Any]:
        merged = {name: {**getattr(self, name), **setting.get(name, {})} for name in ("overrides", "options")}
        return {"codec": codec, "preset": self.preset, "seed": seed, **setting, **merged}

    def _trunk(self, dataset: str, rates: tuple[float, ...], branch: Mapping[str, Any]) -> Trunk | None:
        if self.trunk == "none":
            return None
        codec = branch["codec"]
        if self.trunk == "shipped":
            find_card(codec)
            if codec not in (known := shipped()):
                raise FoveaError(
                    f'trunk = "shipped": no weights of {codec!r} ship with Fovea, of {", ".join(known)} alone; '
                    'with trunk = "own" one is trained, with "none" it starts from scratch'
                )
            return Trunk(codec=codec, shipped=codec)
        values: dict[str, Any] = {
            **{name: branch[name] for name in ("codec", "preset", "seed")},
            "dataset": dataset,
            "overrides": self.trunk_overrides,
            "options": {**branch["options"], **self.trunk_options},
        }
        if find_card(codec).card.rate.name != "lmbda":
            values["rates"] = rates
        return Trunk(**values)


def _grids(file: Path, name: str, table: Any) -> tuple[Grid, ...]:
    where = f"{file}: sweeps.{name}"
    if not isinstance(table, dict):
        raise FoveaError(f"{where}: expected a table, got {table!r}")
    if not _NAME.fullmatch(name):
        raise FoveaError(f"{where}: a sweep's name has up to 40 small letters, digits, - and _")
    shared = {k: v for k, v in table.items() if k != "grids"}
    parts = table.get("grids", [{}])
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise FoveaError(f"{where}.grids: expected one or more tables, got {parts!r}")
    for shared_field in ("about", "also_on"):
        if any(shared_field in part for part in parts):
            raise FoveaError(f"{where}.grids: {shared_field} is said of the whole sweep: write it beside grids")
    return tuple(checked(Grid, {**shared, **part}, where) for part in parts)


@functools.cache
def _shipped() -> dict[str, tuple[Grid, ...]]:
    return {name: _grids(SHIPPED, name, table) for name, table in read_tables(SHIPPED, "sweeps").items()}


def sweep_names() -> list[str]:
    """The sweeps that there are, the shipped ones first. Raises FoveaError for a file that can't be read."""
    return list(_shipped() | read_tables(config_folder() / SETTINGS_FILE, "sweeps"))


def sweep(name: str, dataset: str, registered: Iterable[str] = ()) -> Sweep:
    """The sweep of this name on a dataset; `registered`: the datasets that there are, for `also_on`. Raises FoveaError that
    names file, table and field: for a wrong table, and for a record that cannot be. Other tables are not looked at."""
    file = config_folder() / SETTINGS_FILE
    own, shipped = read_tables(file, "sweeps"), _shipped()
    if name in own and name in shipped:
        raise FoveaError(f"{file}: sweeps.{name}: a sweep of this name ships with Fovea; choose another name")
    if name in own:
        grids = _grids(file, name, own[name])
    elif name in shipped:
        file, grids = SHIPPED, shipped[name]
    else:
        shown = [n for n, some in shipped.items() if some[0].listed]
        raise FoveaError(unknown("sweep", name, [*shown, *own]))
    also_on = tuple(d for d in grids[0].also_on if d in set(registered) and d != dataset)
    try:
        made = dict.fromkeys(e for grid in grids for e in grid.experiments(dataset, also_on))
    except FoveaError as error:
        raise FoveaError(f"{file}: sweeps.{name}: {error}") from error
    return Sweep(name, dataset, tuple(made), grids[0].about)
