"""Records of what is trained: an `Experiment` is one training run, a `Trunk` a training run that others start from.

Both are frozen and hashable; `resolved()` gives every number that training will use, `key` the readable name that
files, partitions, MLflow runs and tables share. The key holds each field that differs from the preset's or the card's
default, so that key and record are one-to-one. Grids of records are sweeps (sweeps.py).

Nothing here imports torch: the code location, the command line and the planner load this module.
"""

import functools
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from models.arms import ARMS
from models.card import Card, Distortion, find_card
from models.errors import FoveaError
from models.mechanisms import LEVELLED, MAX_SPAN, Mechanism
from models.presets import OVERRIDES, Preset, find_preset, shipped_presets
from models.validation import MOST, Flag, Number, Record, Seed, checked, unknown

Maps = Literal["none", "predicted", "shuffled", "center", "oracle"]
DEFAULT_SALIENCY = "sam_lite"
TRUNK_LAMBDAS = (0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512)
WIDTHS = ("n", "m")
ADVERSARIAL_CROP = 64
"""Least crop with three discriminators: the last one's features are 2×2 then, the least that can be normalised."""


def check_span(span: float) -> None:
    """Raises FoveaError for one whose files could not be read."""
    if not 0 <= span <= MAX_SPAN:
        raise FoveaError(f"span {span:g}: a number from 0 to {MAX_SPAN:g} is needed")


def number(value: float) -> str:
    """The shortest decimal that reads back as the same float, as it stands in keys."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _written(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """Settings as keys write them: `steps=600`."""
    return [f"{k}={number(v) if isinstance(v, int | float) else v}" for k, v in pairs]


def _sorted_pairs(values: Any) -> Any:
    return tuple(sorted(dict(values).items()))


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise FoveaError(f"expected a number, got {value!r}")
    return value


Numbers = Annotated[tuple[tuple[str, Annotated[Any, AfterValidator(_number)]], ...], BeforeValidator(_sorted_pairs)]
Values = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_sorted_pairs)]


class Training(Record):
    """What trunks and experiments have in common.

    rates: as the codec's card names them. overrides: values in place of the preset's, by name. options: of the codec's
    card, by name. Mappings are taken for both; what equals the preset's or the card's own value is dropped.
    """

    codec: str
    dataset: str = ""
    preset: str = "smoke"
    rates: tuple[Number, ...] = (0.013,)
    seed: Seed = 0
    distortion: Distortion = "mse"
    overrides: Numbers = ()
    options: Values = ()
    overrides_field: ClassVar[str] = "overrides"
    """What a sweep calls them."""

    @functools.cached_property
    def card(self) -> Card:
        """What the codec's file states."""
        return find_card(self.codec).card

    @functools.cached_property
    def _preset(self) -> Preset:
        return find_preset(self.preset)

    @property
    def rate_name(self) -> str:
        """What its rates are: `lmbda` or `channels`."""
        return self.card.rate.name

    @property
    def lmbda(self) -> tuple[float, ...]:
        """Its Lagrange multipliers; none where the rate is another."""
        return self.rates if self.rate_name == "lmbda" else ()

    def _set(self, **values: Any) -> None:
        """Normalise fields while the record is made; it is frozen afterwards."""
        self.__dict__.update(values)

    def _check(self, mechanism: str) -> None:
        """Raises FoveaError for what codec and preset cannot do."""
        card, preset = self.card, self._preset
        card.check_mechanism(mechanism)
        if self.distortion not in card.distortions:
            raise FoveaError(
                f"{self.codec} has no distortion {self.distortion!r}: it has {', '.join(card.distortions)}"
            )
        if preset.objective != card.objective:
            fitting = ", ".join(name for name, p in shipped_presets().items() if p.objective == card.objective)
            raise FoveaError(
                f"preset {self.preset!r} is for {preset.objective} training; for {self.codec} there are {fitting}"
            )
        for name, _ in self.overrides:
            if name not in OVERRIDES:
                raise FoveaError(f"{self.overrides_field}: {unknown('field', name, OVERRIDES)}")
        checked(Preset, preset.model_dump() | dict(self.overrides), self.overrides_field)
        card.check_options(dict(self.options))
        card.check_options(self._usual_options)
        self._check_rates()
        self._set(
            overrides=tuple((k, v) for k, v in self.overrides if getattr(preset, k) != v),
            options=tuple((k, v) for k, v in self.options if self._usual_options[k] != v),
        )
        if card.objective == "adversarial":
            self._check_adversarial()

    def _check_rates(self) -> None:
        rate = self.card.rate
        if not self.rates or not 0 < min(self.rates) <= max(self.rates) < MOST:
            raise FoveaError(f"{rate.name} needs one or more positive numbers below {MOST:g}, got {self.rates!r}")
        if list(self.rates) != sorted(set(self.rates)):
            raise FoveaError(f"{rate.name} must rise without repeats, got {self.rates!r}")
        if rate.values and not set(self.rates) <= set(rate.values):
            raise FoveaError(
                f"{self.codec}: {rate.name} is one of {', '.join(map(number, rate.values))}; got {self.rates!r}"
            )
        if rate.name == "channels" and len(self.rates) > 1:
            raise FoveaError(f"{self.codec}: one model has one number of channels; got {self.rates!r}")
        if rate.name == "iterations" and not 1 <= self.rates[0] <= self.rates[-1] <= self._all_options["unrolled"]:
            most = self._all_options["unrolled"]
            raise FoveaError(f"{self.codec}: iterations are from 1 to {most} (option unrolled); got {self.rates!r}")

    def _check_adversarial(self) -> None:
        """Raises FoveaError for values that adversarial training would not read, or cannot train with."""
        known = self._all_options
        if known["chroma"] != 1 and self.distortion != "mse":
            raise FoveaError(
                f"option chroma={number(known['chroma'])} weighs squared errors, the distortion is {self.distortion!r}: "
                "set chroma to 1"
            )
        budget = self._budget()
        if "fresh_lr_factor" in budget:
            raise FoveaError(f"{self.codec} trains all its layers alike: fresh_lr_factor is not for it")
        least = (ADVERSARIAL_CROP << int(known["critic_scales"])) >> 3
        if budget["crop"] - int(known["jitter"]) + 1 < least:
            raise FoveaError(
                f"{self.codec}: the coarsest discriminator needs crops of at least {least} pixels, and jitter - 1 more"
            )

    @property
    def _usual_options(self) -> dict[str, Any]:
        """Every option with the preset's value, else the card's."""
        usual = {name: option.default for name, option in self.card.options.items()}
        return usual | {k: v for k, v in self._preset.options.items() if k in usual}

    @property
    def _all_options(self) -> dict[str, Any]:
        return {**self._usual_options, **dict(self.options)}

    def _budget(self) -> dict[str, Any]:
        """Widths and budget; fresh_lr_factor only where it says something."""
        values = {name: getattr(self._preset, name) for name in OVERRIDES} | dict(self.overrides)
        if values["fresh_lr_factor"] == 1:
            del values["fresh_lr_factor"]
        return values

    def _resolved(self, budget: dict[str, Any]) -> dict[str, Any]:
        """What trunks and experiments have in common. Of rate–distortion training the codec's options that differ from the
        card's and every one of the part `training`, of others every one; and m where it is the rate."""
        options, known = self._all_options, self.card.options
        if self.card.objective == "rate_distortion":
            options = {k: v for k, v in options.items() if known[k].part == "training" or v != known[k].default}
        options |= {"m": int(self.rates[0])} if self.rate_name == "channels" else {}
        named = {name: getattr(self, name) for name in ("dataset", "codec", "preset", "distortion", "seed")}
        return {**named, self.rate_name: list(self.rates), **budget, **options}

    def _rate_part(self) -> str:
        """`l0.0016_0.045`; of more than three with equal ratios their number, the first and the last: `9l0.0008to0.2048`. Lists
        that cut keys in the middle show the beginning."""
        names, count = [number(v) for v in self.rates], len(self.rates)
        ratio = self.rates[-1] / self.rates[0]
        even = [float(f"{self.rates[0] * ratio ** (i / (count - 1)):.6g}") for i in range(count)] if count > 3 else []
        first = self.rate_name[0]
        return f"{count}{first}{names[0]}to{names[-1]}" if even == [*self.rates] else first + "_".join(names)

    def _changes(self) -> list[str]:
        """Overrides and options as keys write them."""
        return [*_written(self.overrides), *_written(self.options)]


class Trunk(Training):
    """A variable-rate training run over `rates`, unweighted, from which all arms of a comparison branch.

    `shipped` names weights that come with Fovea (models/codecs/weights/NAME/): nothing is trained then, and dataset,
    budget and seed are those of the file.
    """

    rates: tuple[Number, ...] = TRUNK_LAMBDAS
    shipped: str = ""
    overrides_field: ClassVar[str] = "trunk_overrides"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.shipped:
            find_card(self.codec)
            return self
        if not self.dataset:
            raise FoveaError("a trunk needs the dataset that it is trained on")
        self._check("none")
        return self

    @property
    def key(self) -> str:
        """Readable and unique, for example `sample-bls2017-smoke-trunk`."""
        if self.shipped:
            return f"shipped-{self.shipped}"
        parts = [self.dataset, self.codec, self.preset, "trunk"]
        if self.distortion != "mse":
            parts.append(self.distortion)
        if self.rates != TRUNK_LAMBDAS:
            parts.append(self._rate_part())
        if self.seed:
            parts.append(f"s{self.seed}")
        return "-".join(parts + self._changes())

    def resolved(self) -> dict[str, Any]:
        """Every value that training uses, flat, JSON-ready: what the content key hashes and MLflow's params show."""
        if self.shipped:
            return {"codec": self.codec, "shipped": self.shipped}
        budget = self._budget()
        budget["steps"] = budget.pop("trunk_steps")
        return {"kind": "trunk", "mechanism": "none", "maps": "none", **self._resolved(budget)}


class Experiment(Training):
    """One training run. Fields that the mechanism does not use are set to their defaults, so equal runs are equal.

    rates: one value trains and measures one rate; several train one variable-rate model, measured at each.
    alpha, gamma: the weight map is (alpha + s**gamma), divided by its mean when `normalised`.
    scale: the factor c of the source's un-normalised weights.
    span: for `gain` and `hyper`, by how many rate levels of the trunk the most salient place stands above the least.
    """

    dataset: str
    trunk: Trunk | None = None
    mechanism: Mechanism = "none"
    maps: Maps = "none"
    alpha: Number = 0.1
    gamma: Number = 0.5
    normalised: Flag = True
    scale: Number = 1.0
    span: Number = 4.0
    mode: Literal["deterministic", "fast"] = "deterministic"
    evaluate_on: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.mechanism == "none") != (self.maps == "none"):
            raise FoveaError(f"mechanism {self.mechanism!r} does not go with maps {self.maps!r}")
        self._check(self.mechanism)
        self._check_trunk()
        self._check_untrained()
        if not (0 <= self.alpha < MOST and 0 < self.gamma < MOST and 0 < self.scale < MOST):
            raise FoveaError(f"alpha must not be negative, gamma and scale must be positive; all below {MOST:g}")
        check_span(self.span)
        self._set(**{name: type(self).model_fields[name].default for name in self._set_to_defaults()})
        if not self.evaluate_on:
            self._set(evaluate_on=(self.dataset,))
        return self

    def _check_trunk(self) -> None:
        trunk = self.trunk
        if trunk is None:
            if self.mechanism in LEVELLED and len(self.rates) < 2:
                raise FoveaError(
                    f"mechanism {self.mechanism!r} moves between rates: it needs a trunk, or one model for several rates "
                    "(variable = true in a sweep)"
                )
            return
        if trunk.codec != self.codec:
            raise FoveaError(f"trunk {trunk.key} is a {trunk.codec}, the experiment a {self.codec}")
        own = {} if trunk.shipped else trunk._budget()
        if given := [name for name, value in self.overrides if name in WIDTHS and own.get(name) != value]:
            where = "of the weights that ship" if trunk.shipped else "trunk_overrides in a sweep"
            raise FoveaError(f"overrides: a branch has its trunk's {' and '.join(given)}: {where}")
        if trunk._all_options != self._all_options and self.card.objective == "rate_distortion":
            raise FoveaError(f"options {self._all_options} differ from those of the trunk, {trunk._all_options}")

    @property
    def untrained(self) -> bool:
        """Whether it is its trunk as it is: `steps` is 0."""
        return int(self._budget()["steps"]) == 0

    @property
    def as_shipped(self) -> bool:
        """Whether its weights are those that come with Fovea."""
        return self.untrained and self.trunk is not None and bool(self.trunk.shipped)

    def _check_untrained(self) -> None:
        if self.untrained and (self.trunk is None or self.mechanism not in ("none", "gain")):
            raise FoveaError(
                f"steps = 0 leaves a trunk as it is: that needs a trunk, and none or gain for a mechanism, not {self.mechanism!r}"
            )

    def unused(self) -> set[str]:
        """Fields of the record that nothing is made from: the mechanism does not use them, or the weights are those
        that ship."""
        return self._set_to_defaults() | ({"preset", "seed", "dataset"} if self.as_shipped else set())

    def _set_to_defaults(self) -> set[str]:
        if self.mechanism in LEVELLED:
            # the level at a place fixes its lambda: the weights follow from span and gamma
            return {"alpha", "normalised", "scale"}
        if self.mechanism in ("none", "select"):
            return {"alpha", "gamma", "normalised", "scale", "span"}
        return {"span", "scale"} if self.normalised else {"span"}

    @property
    def arm(self) -> str:
        """The arm's name without its maps, for example `saliency_gain` (docs/experiments.md)."""
        if self.mechanism == "none":
            return "uniform"
        if self.mechanism == "loss":
            return "weighted" if self.normalised else "weighted_raw"
        return f"saliency_{self.mechanism}"

    @property
    def label(self) -> str:
        """The arm with its maps where they are not the predicted ones: `saliency_gain@center`."""
        return self.arm if self.maps in ("none", "predicted") else f"{self.arm}@{self.maps}"

    def _weighting(self) -> list[str]:
        """How the map acts, where it differs from the arm's own values."""
        default: dict[str, Any] = {"alpha": 0.1, "gamma": 0.5, "scale": 1.0, "span": 4.0, **ARMS[self.arm]}
        found = [
            f"{name}={number(getattr(self, name))}"
            for name in ("alpha", "gamma", "scale", "span")
            if getattr(self, name) != default[name]
        ]
        return found + (["raw"] if self.mechanism in ("concat", "sft") and not self.normalised else [])

    def _apart(self) -> list[str]:
        """What differs from the defaults, but for the seed, overrides and options."""
        parts = self._weighting()
        parts += [v for v in (self.distortion, self.mode) if v not in ("mse", "deterministic")]
        return parts

    @property
    def variant(self) -> str:
        """What else sets its curve apart from another of the same arm: weighting, distortion, budget."""
        parts = self._apart() + [part for part in self._changes() if part != "steps=0"]
        if self.untrained:
            parts.append("as shipped" if self.as_shipped else "trunk alone")
        if self.trunk is None:
            parts.append("scratch")
        return ",".join(parts)

    @property
    def key(self) -> str:
        """Readable and unique. Rate, seed, codec and dataset come first (the rate last of them, where there are several) and
        the arm with its settings last, so that a list which cuts keys in the middle still tells a sweep's rows apart; between
        them whatever else differs from the defaults."""
        seed = [f"s{self.seed}"] if self.seed else []
        one = len(self.rates) == 1
        parts = [self._rate_part(), *seed, self.codec] if one else [self.codec, *seed]
        parts += [self.dataset] if one else [self.dataset, self._rate_part()]
        parts.append(self.preset)
        if self.evaluate_on != (self.dataset,):
            parts.append("on=" + "+".join(self.evaluate_on))
        parts.append("as_shipped" if self.as_shipped else f"from={self.trunk.key}" if self.trunk else "scratch")
        # what a whole sweep has in common stands before what its trainings differ in
        overrides = sorted(self.overrides, key=lambda item: not item[0].endswith(("steps", *WIDTHS)))
        parts += [o for o in _written(overrides) if not (self.as_shipped and o == "steps=0")]
        return "-".join([*parts, self.label, *_written(self.options), *self._apart()])

    def resolved(self) -> dict[str, Any]:
        """Every value that training uses, flat, JSON-ready; `evaluate_on` is none of them, nor are widths of a branch:
        its trunk's."""
        budget = self._budget()
        budget.pop("trunk_steps")
        if self.untrained:
            budget = {name: budget[name] for name in (*WIDTHS, "steps")}
        if self.trunk:
            for name in WIDTHS:
                del budget[name]
        own = ("mechanism", "maps", "alpha", "gamma", "normalised", "scale", "span", "mode")
        return {
            "kind": "experiment",
            "arm": self.label,
            "trunk": self.trunk.key if self.trunk else "",
            "saliency": "" if self.maps in ("none", "center", "oracle") else DEFAULT_SALIENCY,
            **{name: getattr(self, name) for name in own},
            **self._resolved(budget),
        }
