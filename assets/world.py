"""What a person has registered: what keys and needs are computed from, beside artifacts."""

import dataclasses
import difflib
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assets.datasets import Dataset, load_registry
from assets.home import Home
from assets.log import lasting_logger
from models.errors import FoveaError
from models.experiments import Experiment, Trunk
from models.sweeps import Sweep, sweep, sweep_names
from models.validation import unknown

_LOG = lasting_logger(__name__)


def evaluation_key(experiment: str, dataset: str) -> str:
    """The partition of one experiment measured on one dataset."""
    return f"{experiment}@{dataset}"


@dataclass
class World:
    """What a person has registered: datasets, sweeps, files. Read once, so make a new one to see changes. made_before:
    partitions that this installation has made of a stage, registered or not; none where nobody looks at the state."""

    home: Home
    made_before: Callable[[str], Sequence[str]] = lambda stage: ()

    @functools.cached_property
    def registry(self) -> dict[str, Dataset]:
        """All datasets by name; one whose table is wrong is left out with a warning."""
        found = load_registry(self.home.config, self._wrong)
        for error in self._wrong.values():
            _LOG.warning("left out: %s", error)
        return found

    @functools.cached_property
    def _wrong(self) -> dict[str, FoveaError]:
        return {}

    def dataset(self, name: str) -> Dataset:
        """A registered dataset; raises FoveaError that says what is wrong with it, or what was probably meant."""
        found = self.registry
        if name in self._wrong:
            raise self._wrong[name]
        if name not in found:
            raise FoveaError(f"{unknown('dataset', name, found)} (fovea datasets add {name} PATH)")
        return found[name]

    @functools.cached_property
    def sweeps(self) -> dict[str, Sweep]:
        """Every sweep on every dataset, by `dataset.sweep`; those that cannot be are left out, with one warning: what is wrong
        with one, `sweep` says."""
        made: dict[str, Sweep] = {}
        left_out = []
        for name in sweep_names():
            try:
                found = [sweep(name, dataset, self.registry) for dataset in self.registry]
            except FoveaError:
                left_out.append(name)
                continue
            made |= {s.key: self._where_eyes_are(s) for s in found}
        if left_out:
            said = f"{len(left_out)} sweeps that are wrong" if left_out[1:] else f"sweep {left_out[0]}, which is wrong"
            _LOG.warning("left out: %s (fovea status --sweep %s says why)", said, left_out[0])
        return made

    def sweep(self, key: str) -> Sweep:
        """A sweep by `dataset.sweep`. Raises FoveaError that says what was probably meant, or what is wrong with it."""
        dataset, _, name = key.partition(".")
        if not name:
            raise FoveaError(f"{key!r} is no sweep; write dataset.sweep, for example sample.smoke")
        self.dataset(dataset)
        sweep(name, dataset, self.registry)
        return self.sweeps[key]

    def _where_eyes_are(self, sweep: Sweep) -> Sweep:
        """Without the arms that people's own fixations guide where nobody's were recorded, unless nothing else would be
        left."""
        kept = []
        for e in sweep.experiments:
            if e.maps == "oracle":
                seen = tuple(d for d in e.evaluate_on if d in self.registry and self.registry[d].fixations)
                if not (seen and self.registry[e.dataset].fixations):
                    continue
                e = e if seen == e.evaluate_on else e.model_copy(update={"evaluate_on": seen})
            kept.append(e)
        return dataclasses.replace(sweep, experiments=tuple(kept)) if kept else sweep

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Every experiment of every sweep by key."""
        return {e.key: e for s in self.sweeps.values() for e in s.experiments}

    @functools.cached_property
    def trunks(self) -> dict[str, Trunk]:
        """Every trunk by key."""
        return {t.key: t for s in self.sweeps.values() for t in s.trunks}

    def experiment(self, key: str) -> Experiment:
        """Raises FoveaError with the nearest keys."""
        if key not in self.experiments:
            near = difflib.get_close_matches(key, self.experiments, n=3, cutoff=0.3)
            hint = "; nearest: " + ", ".join(near) if near else ""
            raise FoveaError(f"no sweep has an experiment {key!r}{hint} (fovea status --keys lists them)")
        return self.experiments[key]

    def fixations_digest(self, dataset: str) -> str:
        """Digest of a dataset's fixation table, "" when it has none; the file is read once."""
        digests: dict[str, str] = self.__dict__.setdefault("_fixations", {})
        if dataset not in digests:
            path = self.dataset(dataset).fixations
            try:
                digests[dataset] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:32] if path else ""
            except OSError as error:
                raise FoveaError(
                    f"{path}: {error.strerror}; dataset {dataset} has its fixations there: bring the table back, or name "
                    f"another (fovea datasets add {dataset} FOLDER --fixations TABLE)"
                ) from error
        return digests[dataset]
