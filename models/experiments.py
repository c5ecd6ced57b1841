"""What is trained and compared: records, arms, presets and sweeps. The only place where a grid is written.

An `Experiment` is one training run, a `Trunk` a training run that others start from, a `Sweep` a named set of
experiments on one dataset. All are frozen and hashable; `resolved()` gives every number that training will use,
`key` the readable name that files, partitions, MLflow runs and tables share. The key holds each field that differs
from the preset's default, so that key and record are one-to-one.

Nothing here imports torch: the code location, the command line and the planner load this module.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import FoveaError

MECHANISMS = ("none", "loss", "concat", "sft", "gain", "hyper", "select")
LEVELLED = ("gain", "hyper")
"""Mechanisms whose map moves the rate level from place to place."""
MAPS = ("none", "predicted", "shuffled", "center", "oracle")
DISTORTIONS = ("mse", "ms_ssim", "l1_ms_ssim")
CODECS = ("bls2017", "bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "cheng2020_anchor")
TOLD = ("bmshj2018_hyperprior", "mbt2018_mean")
"""Codecs with the mechanism `hyper`: their hyperprior can tell levels, by integers."""
GENERATIVE = ("agustsson2019",)
"""Codecs that are trained against discriminators. Their rate is the number of code channels, written as lmbda."""
GENERATIVE_RATES = (2.0, 4.0, 8.0, 16.0)
GENERATIVE_CROP = 64
"""Least crop with three discriminators: the last one's features are 2×2 then, the least that can be normalised."""
FAULTS = ("", "gradient", "relu", "scale", "augment")
"""What a record's option `fault` may be; several of them in alphabetical order, joined by +."""
DEFAULT_SALIENCY = "sam_lite"

OPTIONS: Mapping[str, Any] = {
    # the codec (models/codecs/agustsson2019.py)
    "centres": 5,
    "blocks": 9,
    "norm": "instance",
    "patch": 1,
    "hold": 0,
    "noise": 0,
    "keep": 0.5,
    # the loss (models/training/adversarial.py): weights of its terms, and the share of the steps with `fidelity` alone
    "fidelity": 10.0,
    "perceptual": 12.0,
    "adversarial": 1.0,
    "matching": 12.0,
    "start": 0.0,
    "chroma": 1.0,
    "features": "efficientnet",
    "jitter": 1,
    # the discriminators
    "critic_width": 64,
    "critic_scales": 3,
    "critic_lr": 1.0,
    "beta1": 0.5,
    # what ailed the public port, for the codec doctor to find
    "fault": "",
}
"""What generative codecs and their training know beyond the preset, with the paper's values."""
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "norm": ("instance", "none"),
    "patch": (1, 2, 4),
    "hold": (0, 1),
    "features": ("efficientnet", "efficientnet-deep", "vgg"),
}
LEAST = {"centres": 3, "blocks": 0, "noise": 0, "jitter": 1, "critic_width": 1, "critic_scales": 1}
"""The least of options that are whole numbers."""
BELOW = {
    "keep": 1.0,
    "start": 1.0,
    "beta1": 0.999,
    **dict.fromkeys(("fidelity", "perceptual", "adversarial", "matching", "chroma", "critic_lr"), 1e6),
}
"""The most of options that are numbers from 0."""
LAYER_OPTIONS: Mapping[str, Mapping[str, int]] = {"bls2017": {"dilation": 1}}
"""What other codecs' files offer beyond their papers, whole numbers from 1, with the papers' values."""
CODEC_OPTIONS = ("centres", "blocks", "norm", "patch", "hold", "noise", "keep", "fault")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Widths and budget. `steps` is what each arm gets after its trunk, or from scratch without one.

    Learning rates are Adam's; `clip_norm` bounds the global gradient norm (CompressAI's training uses 1.0).
    """

    name: str
    n: int
    m: int
    trunk_steps: int
    steps: int
    batch_size: int
    crop: int
    lr: float = 1e-4
    aux_lr: float = 1e-3
    clip_norm: float = 1.0
    warmup_steps: int = 0
    final_lr_factor: float = 0.05  # cosine decay ends at lr times this
    fresh_lr_factor: float = 1.0  # learning rate of the layers that the trunk lacks, as a multiple of lr
    ema: float = 0.0  # decay of the exponential moving average of the weights, 0 = off
    checkpoint_every: int = 500
    probe_every: int = 1000  # steps between looks at train and held-out pictures
    options: tuple[tuple[str, Any], ...] = ()  # for generative codecs: where they differ from OPTIONS
    generative: bool = False


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            name="tiny",
            n=8,
            m=12,
            trunk_steps=150,
            steps=20,
            batch_size=4,
            crop=64,
            lr=3e-3,
            checkpoint_every=50,
            probe_every=100,
        ),
        Preset(
            name="smoke",
            n=64,
            m=96,
            trunk_steps=1500,
            steps=120,
            batch_size=8,
            crop=128,
            lr=1e-4,
            checkpoint_every=50,
            probe_every=120,
        ),
        Preset(
            name="small",
            n=64,
            m=96,
            trunk_steps=60_000,
            steps=6_000,
            batch_size=8,
            crop=128,
            lr=3e-4,
            checkpoint_every=500,
        ),
        Preset(
            name="base",
            n=128,
            m=128,
            trunk_steps=200_000,
            steps=50_000,
            batch_size=16,
            crop=256,
            checkpoint_every=2_000,
            probe_every=5_000,
        ),
        Preset(
            name="paper",
            n=128,
            m=192,
            trunk_steps=1_000_000,
            steps=200_000,
            batch_size=16,
            crop=256,
            checkpoint_every=5_000,
            probe_every=20_000,
        ),
        Preset(
            name="gan_tiny",
            n=16,
            m=0,
            trunk_steps=8,
            steps=8,
            batch_size=2,
            crop=64,
            lr=1e-3,
            checkpoint_every=3,
            probe_every=4,
            generative=True,
            options=(("blocks", 1), ("critic_width", 4), ("norm", "none"), ("patch", 2), ("start", 0.5)),
        ),
        Preset(
            name="gan_small",
            n=128,
            m=0,
            trunk_steps=4_000,
            steps=4_000,
            batch_size=4,
            crop=128,
            lr=6e-4,
            warmup_steps=200,
            ema=0.998,
            clip_norm=5.0,
            checkpoint_every=200,
            probe_every=1_000,
            generative=True,
            options=(
                ("adversarial", 0.3),
                ("beta1", 0.9),
                ("blocks", 6),
                ("critic_width", 16),
                ("fidelity", 100.0),
                ("matching", 2.0),
                ("norm", "none"),
                ("patch", 2),
                ("perceptual", 1.5),
                ("start", 0.6),
            ),
        ),
        Preset(
            name="gan_paper",
            n=960,
            m=0,
            trunk_steps=150_000,
            steps=150_000,
            batch_size=1,
            crop=512,
            lr=2e-4,
            final_lr_factor=1.0,
            clip_norm=0.0,
            checkpoint_every=2_000,
            probe_every=5_000,
            generative=True,
        ),
    )
}

PRESETS["gan_medium"] = dataclasses.replace(
    PRESETS["gan_small"],
    name="gan_medium",
    trunk_steps=20_000,
    steps=8_000,
    lr=3e-4,
    checkpoint_every=500,
    probe_every=2_000,
    options=tuple(
        sorted(
            {
                **dict(PRESETS["gan_small"].options),
                "chroma": 4.0,
                "features": "efficientnet-deep",
                "hold": 1,
                "jitter": 16,
                "start": 0.0,
            }.items()
        )
    ),
)

OVERRIDES = tuple(
    f.name
    for f in dataclasses.fields(Preset)
    if f.name not in ("name", "checkpoint_every", "probe_every", "options", "generative")
)

SMOKE_LAMBDAS = (0.0016, 0.0045, 0.013, 0.036)
TRUNK_LAMBDAS = (0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512)
ARMS_LAMBDAS = (0.0008, 0.0032, 0.0128, 0.0512)
SEED_LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483)


def number(value: float) -> str:
    """The shortest decimal that reads back as the same float, as it stands in keys."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def _check_lambdas(values: tuple[float, ...], where: str, name: str = "lmbda") -> None:
    if not values or any(not (isinstance(v, (int, float)) and math.isfinite(v) and v > 0) for v in values):
        raise FoveaError(f"{where}: {name} needs one or more positive numbers, got {values!r}")
    if list(values) != sorted(set(values)):
        raise FoveaError(f"{where}: {name} must rise without repeats, got {values!r}")


def _check_preset(name: str, overrides: tuple[tuple[str, float], ...]) -> None:
    if name not in PRESETS:
        raise FoveaError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    for key, _ in overrides:
        if key not in OVERRIDES:
            raise FoveaError(f"preset override {key!r} is not one of {', '.join(OVERRIDES)}")
    if list(overrides) != sorted(overrides):
        raise FoveaError(
            "preset overrides must be sorted by name; build records with `override=`-style helpers"
        )


def _budget(preset: str, overrides: tuple[tuple[str, float], ...]) -> dict[str, Any]:
    values = {
        f.name: getattr(PRESETS[preset], f.name) for f in dataclasses.fields(Preset) if f.name in OVERRIDES
    }
    values.update(dict(overrides))
    if values["fresh_lr_factor"] == 1:
        del values["fresh_lr_factor"]
    return values


def _suffix(overrides: tuple[tuple[str, float], ...], preset: str) -> list[str]:
    return [f"{k}={number(v)}" for k, v in overrides if getattr(PRESETS[preset], k) != v]


def _check_generative(codec: str, preset: str, lmbda: tuple[float, ...], mechanism: str) -> None:
    """What only a generative codec may, and what it may not."""
    if codec not in GENERATIVE:
        if PRESETS[preset].generative:
            raise FoveaError(f"preset {preset!r} is for generative codecs: {', '.join(GENERATIVE)}")
        if mechanism == "select":
            raise FoveaError(f"mechanism 'select' is for generative codecs: {', '.join(GENERATIVE)}")
        if mechanism == "hyper" and codec not in TOLD:
            raise FoveaError(f"{codec} has no mechanism 'hyper': it is for {', '.join(TOLD)}")
        return
    if not PRESETS[preset].generative:
        known = ", ".join(p.name for p in PRESETS.values() if p.generative)
        raise FoveaError(f"{codec} needs a preset for generative codecs: {known}")
    if mechanism in ("sft", *LEVELLED):
        raise FoveaError(f"{codec} has no mechanism {mechanism!r}: none, loss, concat or select")
    if len(lmbda) != 1 or lmbda[0] not in GENERATIVE_RATES:
        rates = ", ".join(number(v) for v in GENERATIVE_RATES)
        raise FoveaError(
            f"{codec}: lmbda is the number of code channels, one of {rates} for each model; got {lmbda!r}"
        )


def _with_options(
    codec: str, preset: str, lmbda: tuple[float, ...], options: tuple[tuple[str, Any], ...] = ()
) -> dict[str, Any]:
    """The further fields of a resolved record: of a generative codec C and every option, of others those that differ."""
    if codec not in GENERATIVE:
        return dict(options)
    return {**OPTIONS, **dict(PRESETS[preset].options), **dict(options), "m": int(lmbda[0])}


def _layer_options(codec: str, options: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Sorted, where they differ from the paper. Raises FoveaError for what a codec that is not generative lacks."""
    known = LAYER_OPTIONS.get(codec, {})
    for name, value in options:
        if name not in known or not isinstance(value, int) or isinstance(value, bool) or value < 1:
            has = ", ".join(known) or "none"
            raise FoveaError(
                f"option {name}={value!r} is not for {codec}: it has {has}, whole numbers from 1"
            )
    return tuple(sorted((k, v) for k, v in options if known[k] != v))


def _checked_options(
    codec: str, preset: str, options: tuple[tuple[str, Any], ...]
) -> tuple[tuple[str, Any], ...]:
    """A record's options: sorted, where they differ from the preset's or the paper's. Raises FoveaError for others."""
    if codec not in GENERATIVE:
        return _layer_options(codec, options)
    for name, _ in options:
        if name not in OPTIONS:
            raise FoveaError(f"unknown option {name!r}; known: {', '.join(OPTIONS)}")
    default = {**OPTIONS, **dict(PRESETS[preset].options)}
    fault = dict(options).get("fault", "")
    for name, value in options:
        _check_option(name, value)
    known = set(FAULTS[1:]).intersection(str(fault).split("+"))
    if fault != "" and fault != "+".join(sorted(known)):
        raise FoveaError(
            f"unknown fault {fault!r}; known: {', '.join(FAULTS[1:])}, and several in alphabetical order joined by +"
        )
    return tuple(sorted((k, v) for k, v in options if default[k] != v))


def _check_option(name: str, value: Any) -> None:
    """Raises FoveaError for a value that no codec or training could take; `fault` has a check of its own."""
    if name in CHOICES:
        fine, said = value in CHOICES[name], "one of " + ", ".join(map(repr, CHOICES[name]))
    elif name in LEAST:
        least = LEAST[name]
        fine, said = type(value) is int and value >= least, f"a whole number from {least}"
    elif name in BELOW:
        fine, said = (
            type(value) in (int, float) and 0 <= value <= BELOW[name],
            f"a number from 0 to {BELOW[name]:g}",
        )
        if name in ("chroma", "critic_lr"):
            fine, said = fine and value > 0, "a positive number"
    else:
        return
    if not fine:
        raise FoveaError(f"option {name}={value!r}: it takes {said}")


def _check_read(
    codec: str,
    preset: str,
    distortion: str,
    overrides: tuple[tuple[str, float], ...],
    options: tuple[tuple[str, Any], ...],
) -> None:
    """Raises FoveaError for values that a generative codec's training would not read."""
    if codec not in GENERATIVE:
        return
    chroma = {**OPTIONS, **dict(PRESETS[preset].options), **dict(options)}["chroma"]
    if chroma != 1 and distortion != "mse":
        raise FoveaError(
            f"option chroma={number(chroma)} weighs squared errors, the distortion is {distortion!r}: set chroma to 1"
        )
    if _budget(preset, overrides).get("fresh_lr_factor", 1) != 1:
        raise FoveaError(f"{codec} trains all its layers alike: fresh_lr_factor is not for it")


def _option_suffix(options: tuple[tuple[str, Any], ...]) -> list[str]:
    return [f"{k}={number(v) if isinstance(v, (int, float)) else v}" for k, v in options]


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A variable-rate training run over `lmbda`, unweighted, from which all arms of a comparison branch.

    `shipped` names weights that come with Fovea (models/codecs/weights/NAME.safetensors): nothing is trained then,
    and dataset, budget and seed are those of the file.
    """

    codec: str
    dataset: str = ""
    preset: str = "smoke"
    lmbda: tuple[float, ...] = TRUNK_LAMBDAS
    seed: int = 0
    distortion: str = "mse"
    overrides: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    shipped: str = ""

    def __post_init__(self) -> None:
        if self.codec not in (*CODECS, *GENERATIVE):
            raise FoveaError(f"unknown codec {self.codec!r}; known: {', '.join((*CODECS, *GENERATIVE))}")
        if self.shipped:
            return
        if not self.dataset:
            raise FoveaError("a trunk needs the dataset that it is trained on")
        if self.distortion not in DISTORTIONS:
            raise FoveaError(f"unknown distortion {self.distortion!r}; known: {', '.join(DISTORTIONS)}")
        _check_preset(self.preset, self.overrides)
        _check_lambdas(self.lmbda, "trunk")
        _check_generative(self.codec, self.preset, self.lmbda, "none")
        object.__setattr__(self, "options", _checked_options(self.codec, self.preset, self.options))
        _check_read(self.codec, self.preset, self.distortion, self.overrides, self.options)

    @property
    def key(self) -> str:
        """Readable and unique, for example `sample-bls2017-smoke-trunk`."""
        if self.shipped:
            return f"shipped-{self.shipped}"
        parts = [self.dataset, self.codec, self.preset, "trunk"]
        if self.distortion != "mse":
            parts.append(self.distortion)
        if self.lmbda != TRUNK_LAMBDAS:
            parts.append("l" + "_".join(number(v) for v in self.lmbda))
        if self.seed:
            parts.append(f"s{self.seed}")
        return "-".join(parts + _suffix(self.overrides, self.preset) + _option_suffix(self.options))

    def resolved(self) -> dict[str, Any]:
        """Every value that training uses, flat, JSON-ready: what the content key hashes and MLflow's params show."""
        if self.shipped:
            return {"codec": self.codec, "shipped": self.shipped}
        budget = _budget(self.preset, self.overrides)
        budget["steps"] = budget.pop("trunk_steps")
        return {
            "kind": "trunk",
            "dataset": self.dataset,
            "codec": self.codec,
            "preset": self.preset,
            "mechanism": "none",
            "maps": "none",
            "lmbda": list(self.lmbda),
            "distortion": self.distortion,
            "seed": self.seed,
            **budget,
            **_with_options(self.codec, self.preset, self.lmbda, self.options),
        }


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run. Fields that the mechanism does not use are set to their defaults, so equal runs are equal.

    lmbda: one value trains and measures one rate; several train one variable-rate model, measured at each.
    target_bpp: rates that a variable-rate model is measured at instead: their lambdas are searched on validation pictures.
    alpha, gamma: the weight map is (alpha + s**gamma), divided by its mean when `normalised` (science.md).
    scale: the factor c of the source's un-normalised weights.
    span: for `gain` and `hyper`, by how many rate levels of the trunk the most salient place stands above the least.
    options: of the codec's own, sorted, where they differ from the preset's or the paper's; see OPTIONS, LAYER_OPTIONS.
    """

    dataset: str
    codec: str
    preset: str = "smoke"
    trunk: Trunk | None = None
    mechanism: str = "none"
    maps: str = "none"
    saliency: str = DEFAULT_SALIENCY
    alpha: float = 0.1
    gamma: float = 0.5
    normalised: bool = True
    scale: float = 1.0
    span: float = 4.0
    distortion: str = "mse"
    lmbda: tuple[float, ...] = (0.013,)
    seed: int = 0
    overrides: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    mode: str = "deterministic"
    target_bpp: tuple[float, ...] = ()
    evaluate_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.codec not in (*CODECS, *GENERATIVE):
            raise FoveaError(f"unknown codec {self.codec!r}; known: {', '.join((*CODECS, *GENERATIVE))}")
        if self.mechanism not in MECHANISMS:
            raise FoveaError(f"unknown mechanism {self.mechanism!r}; known: {', '.join(MECHANISMS)}")
        if self.maps not in MAPS:
            raise FoveaError(f"unknown maps {self.maps!r}; known: {', '.join(MAPS)}")
        if (self.mechanism == "none") != (self.maps == "none"):
            raise FoveaError(f"mechanism {self.mechanism!r} does not go with maps {self.maps!r}")
        if self.distortion not in DISTORTIONS:
            raise FoveaError(f"unknown distortion {self.distortion!r}; known: {', '.join(DISTORTIONS)}")
        if self.mode not in ("deterministic", "fast"):
            raise FoveaError(f"mode is 'deterministic' or 'fast', not {self.mode!r}")
        _check_preset(self.preset, self.overrides)
        _check_lambdas(self.lmbda, "experiment")
        if self.target_bpp:
            _check_lambdas(self.target_bpp, "experiment", "target_bpp")
            if len(self.lmbda) < 2:
                raise FoveaError(
                    "target_bpp is searched over the rates of one variable-rate model: give the experiment several values "
                    f"of lmbda to train over, not {self.lmbda!r}"
                )
        _check_generative(self.codec, self.preset, self.lmbda, self.mechanism)
        object.__setattr__(self, "options", _checked_options(self.codec, self.preset, self.options))
        _check_read(self.codec, self.preset, self.distortion, self.overrides, self.options)
        least = GENERATIVE_CROP >> (3 - int(dict(self.options).get("critic_scales", 3)))
        if self.codec in GENERATIVE:
            known = {**OPTIONS, **dict(PRESETS[self.preset].options), **dict(self.options)}
            if _budget(self.preset, self.overrides)["crop"] - int(known["jitter"]) + 1 < least:
                raise FoveaError(
                    f"{self.codec}: the coarsest discriminator needs crops of at least {least} pixels, and jitter - 1 more"
                )
        if self.trunk is not None and self.trunk.codec != self.codec:
            raise FoveaError(f"trunk {self.trunk.key} is a {self.trunk.codec}, the experiment a {self.codec}")
        if self.trunk is not None and self.trunk.options != self.options and self.codec not in GENERATIVE:
            raise FoveaError(
                f"options {dict(self.options)} differ from those of the trunk, {dict(self.trunk.options)}"
            )
        if self.mechanism in LEVELLED and self.trunk is None and len(self.lmbda) < 2:
            raise FoveaError(
                f"mechanism {self.mechanism!r} moves between rates: it needs a trunk or several values of lmbda"
            )
        if not (self.alpha >= 0 and self.gamma > 0 and self.scale > 0 and self.span >= 0):
            raise FoveaError("alpha and span must not be negative, gamma and scale must be positive")
        for name, value in self._unused().items():
            object.__setattr__(self, name, value)
        if not self.evaluate_on:
            object.__setattr__(self, "evaluate_on", (self.dataset,))

    def _unused(self) -> dict[str, Any]:
        default = {f.name: f.default for f in dataclasses.fields(self)}
        names: list[str] = []
        if self.mechanism == "none":
            names += ["saliency", "alpha", "gamma", "normalised", "scale", "span"]
        if self.mechanism not in LEVELLED:
            names += ["span"]
        else:
            # the level at a place fixes its lambda: the weights follow from span and gamma
            names += ["alpha", "normalised", "scale"]
        if self.mechanism == "select":
            names += ["alpha", "gamma", "normalised", "scale"]
        if self.normalised:
            names += ["scale"]
        if self.maps in ("center", "oracle"):
            names += ["saliency"]
        return {n: default[n] for n in names}

    @property
    def rate_name(self) -> str:
        """What the values of its rate are: `lmbda`, or `channels`."""
        return "channels" if self.codec in GENERATIVE else "lmbda"

    @property
    def arm(self) -> str:
        """The arm's name without its maps, for example `saliency_gain` (science.md's table)."""
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

    def _rates(self) -> list[str]:
        return ["bpp=" + "_".join(number(v) for v in self.target_bpp)] if self.target_bpp else []

    @property
    def variant(self) -> str:
        """What else sets its curve apart from another of the same arm: weighting, maps' model, distortion, budget."""
        parts = self._weighting()
        if self.saliency != DEFAULT_SALIENCY:
            parts.append(f"by={self.saliency}")
        if self.distortion != "mse":
            parts.append(self.distortion)
        if self.mode != "deterministic":
            parts.append(self.mode)
        parts += self._rates()
        parts += _suffix(self.overrides, self.preset)
        parts += _option_suffix(self.options)
        if self.trunk is None:
            parts.append("scratch")
        return ",".join(parts)

    @property
    def key(self) -> str:
        """Readable and unique: dataset, codec, preset, arm, lmbda, then whatever differs from the defaults."""
        rates = "l" + "_".join(number(v) for v in self.lmbda)
        parts = [self.dataset, self.codec, self.preset, self.label, rates, *self._weighting()]
        if self.saliency != DEFAULT_SALIENCY:
            parts.append(f"by={self.saliency}")
        if self.distortion != "mse":
            parts.append(self.distortion)
        if self.mode != "deterministic":
            parts.append(self.mode)
        parts += self._rates()
        if self.seed:
            parts.append(f"s{self.seed}")
        parts += _suffix(self.overrides, self.preset)
        parts += _option_suffix(self.options)
        parts.append(f"from={self.trunk.key}" if self.trunk else "scratch")
        if self.evaluate_on != (self.dataset,):
            parts.append("on=" + "+".join(self.evaluate_on))
        return "-".join(parts)

    def resolved(self) -> dict[str, Any]:
        """Every value that training uses, flat, JSON-ready; `evaluate_on` and `target_bpp` are none of them."""
        budget = _budget(self.preset, self.overrides)
        budget.pop("trunk_steps")
        return {
            "kind": "experiment",
            "dataset": self.dataset,
            "codec": self.codec,
            "preset": self.preset,
            "arm": self.label,
            "trunk": self.trunk.key if self.trunk else "",
            "mechanism": self.mechanism,
            "maps": self.maps,
            "saliency": "" if self.maps in ("none", "center", "oracle") else self.saliency,
            "alpha": self.alpha,
            "gamma": self.gamma,
            "normalised": self.normalised,
            "scale": self.scale,
            "span": self.span,
            "distortion": self.distortion,
            "lmbda": list(self.lmbda),
            "seed": self.seed,
            "mode": self.mode,
            **budget,
            **_with_options(self.codec, self.preset, self.lmbda, self.options),
        }


def override(preset: str, **values: float) -> tuple[tuple[str, float], ...]:
    """Preset values for one record, in the form that records keep: `overrides=override("smoke", lr=1e-3)`."""
    chosen = tuple(sorted((k, v) for k, v in values.items() if getattr(PRESETS[preset], k, None) != v))
    _check_preset(preset, chosen)
    return chosen


ARMS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {"mechanism": "none", "maps": "none"},
    "weighted_raw": {"mechanism": "loss", "maps": "predicted", "normalised": False, "gamma": 1.0},
    "weighted": {"mechanism": "loss", "maps": "predicted", "gamma": 1.0},
    "saliency_concat": {"mechanism": "concat", "maps": "predicted", "gamma": 1.0},
    "saliency_sft": {"mechanism": "sft", "maps": "predicted", "gamma": 1.0},
    "saliency_gain": {"mechanism": "gain", "maps": "predicted"},
    "saliency_hyper": {"mechanism": "hyper", "maps": "predicted"},
    "saliency_select": {"mechanism": "select", "maps": "predicted"},
}
CONTROLS = ("shuffled", "center", "oracle")


def arm(name: str) -> dict[str, Any]:
    """The record's fields for an arm such as `weighted` or `saliency_gain@center`.

    Raises FoveaError for an unknown arm or control.
    """
    base, _, control = name.partition("@")
    if base not in ARMS or (control and (base == "uniform" or control not in CONTROLS)):
        known = ", ".join(ARMS)
        raise FoveaError(
            f"unknown arm {name!r}; arms: {known}, each but uniform also with @{', @'.join(CONTROLS)}"
        )
    fields = dict(ARMS[base])
    if control:
        fields["maps"] = control
    return fields


@dataclass(frozen=True)
class Sweep:
    """A named grid on one dataset. `datasets` lists every dataset it trains or measures on.

    also_on: datasets that it is measured on, too, where the user has them (`measured_on`).
    """

    name: str
    dataset: str
    experiments: tuple[Experiment, ...]
    about: str = ""
    also_on: tuple[str, ...] = ()
    datasets: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        keys = [e.key for e in self.experiments]
        if len(set(keys)) != len(keys):
            raise FoveaError(f"sweep {self.name}: an experiment stands in it twice")
        used = {self.dataset, *(d for e in self.experiments for d in (e.dataset, *e.evaluate_on))}
        used |= {t.dataset for t in self.trunks if t.dataset}
        object.__setattr__(self, "datasets", tuple(sorted(used)))

    @property
    def key(self) -> str:
        """The partition of tables and report: `dataset.sweep`."""
        return f"{self.dataset}.{self.name}"

    @property
    def trunks(self) -> tuple[Trunk, ...]:
        """Each trunk that an experiment starts from, once, in order."""
        return tuple(dict.fromkeys(e.trunk for e in self.experiments if e.trunk is not None))

    def measured_on(self, registered: Iterable[str]) -> "Sweep":
        """This sweep with the datasets of `also_on` that are registered added to each experiment's `evaluate_on`."""
        more = tuple(d for d in self.also_on if d in set(registered) and d != self.dataset)
        if not more:
            return self
        experiments = tuple(
            dataclasses.replace(e, evaluate_on=tuple(dict.fromkeys((*e.evaluate_on, *more))))
            for e in self.experiments
        )
        return dataclasses.replace(self, experiments=experiments)


def grid(
    dataset: str,
    *,
    codecs: Iterable[str],
    arms: Iterable[str],
    lambdas: Iterable[float],
    preset: str,
    seeds: Iterable[int] = (0,),
    trunk: str = "own",
    variable: bool = False,
    options: tuple[tuple[str, Any], ...] = (),
    evaluate_on: tuple[str, ...] = (),
    overrides: tuple[tuple[str, float], ...] = (),
    settings: Iterable[Mapping[str, Any]] = ({},),
) -> tuple[Experiment, ...]:
    """Every combination, one experiment a lambda; with `variable` one for all of them, a variable-rate model. Equal
    records stand in it once.

    settings: fields of the record that replace the arm's own, such as `{"span": 2.0, "gamma": 1.0}`; an arm that does
    not use them stands in the grid once.
    trunk: `own` trains one for each codec and seed, from which all arms branch; `shipped` branches from the weights that
    come with Fovea; `none` trains from scratch.
    """

    def start(codec: str, seed: int) -> Trunk | None:
        if trunk == "none":
            return None
        if trunk == "shipped":
            return Trunk(codec=codec, shipped=codec)
        return Trunk(dataset=dataset, codec=codec, preset=preset, seed=seed, options=options)

    arms, lambdas, seeds, settings = tuple(arms), tuple(lambdas), tuple(seeds), tuple(settings)
    rates = (lambdas,) if variable else tuple((lmbda,) for lmbda in lambdas)
    every = (
        Experiment(
            dataset=dataset,
            codec=codec,
            preset=preset,
            trunk=start(codec, seed),
            lmbda=rate,
            seed=seed,
            evaluate_on=evaluate_on,
            overrides=overrides,
            options=options,
            **{**arm(name), **setting},
        )
        for codec in codecs
        for seed in seeds
        for name in arms
        for setting in settings
        for rate in rates
    )
    return tuple(dict.fromkeys(every))


def smoke(dataset: str) -> Sweep:
    """One mechanism and its control, four rates, minutes on two cores, from the shipped trunk."""
    return Sweep(
        "smoke",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform", "saliency_gain", "saliency_gain@center"),
            lambdas=SMOKE_LAMBDAS,
            preset="smoke",
            trunk="shipped",
        ),
        about="One mechanism and its control at four rates: branches of the shipped trunk (never trained on `sample`).",
    )


def game(dataset: str) -> Sweep:
    """One codec from random weights: what `fovea game` shows while it learns."""
    return Sweep(
        "game",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform",),
            lambdas=(0.0045,),
            preset="smoke",
            trunk="none",
            overrides=override("smoke", lr=1e-3, steps=1500),
        ),
        about="One training from random weights, minutes on two cores: the levels of `fovea game`.",
    )


def tiny(dataset: str) -> Sweep:
    """One trunk, two arms, four rates with next to no training: for the project's own tests."""
    return Sweep(
        "tiny",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform", "saliency_gain"),
            lambdas=SMOKE_LAMBDAS,
            preset="tiny",
        ),
        about="Seconds of training: for the project's own tests.",
    )


def arms_and_controls(mechanisms: Iterable[str], controls: Iterable[str] = CONTROLS) -> tuple[str, ...]:
    """`uniform`, the arms given, and the controls of each. `weighted_raw` has none: it is about the mean of the weights."""
    mechanisms = tuple(mechanisms)
    controlled = (f"{m}@{c}" for m in mechanisms if m != "weighted_raw" for c in controls)
    return ("uniform", *mechanisms, *controlled)


CONDITIONED = tuple(name for name in ARMS if name not in ("uniform", "saliency_hyper", "saliency_select"))
"""Arms that every codec has but the generative ones."""


def seed(dataset: str) -> Sweep:
    """The source's experiment done right: bls2017, a grid of lambda, all arms and controls, three seeds."""
    return Sweep(
        "seed",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=arms_and_controls(CONDITIONED),
            lambdas=SEED_LAMBDAS,
            preset="base",
            seeds=(0, 1, 2),
        ),
        about="The source's experiment done right: bls2017, six rates, all arms and controls, three seeds.",
    )


def paper(dataset: str) -> Sweep:
    """All codecs with all arms and controls at the full budget, measured on Kodak, too, where it is registered.

    One variable-rate model an arm, measured at each lambda: at this budget a model for each would cost six times as much.
    """

    def every(codecs: tuple[str, ...], names: tuple[str, ...]) -> tuple[Experiment, ...]:
        return grid(dataset, codecs=codecs, arms=names, lambdas=SEED_LAMBDAS, preset="paper", variable=True)

    return Sweep(
        "paper",
        dataset,
        (
            *every(CODECS, arms_and_controls(CONDITIONED)),
            *every(TOLD, arms_and_controls(("saliency_hyper",))[1:]),
        ),
        about="All codecs, all arms and controls, full budget; measured on `kodak`, too, where it is registered.",
        also_on=("kodak",),
    )


def arms(dataset: str) -> Sweep:
    """The question at the budget of a laptop: two codecs, arms and controls, half an hour to an hour on two cores.

    One variable-rate branch of a shipped trunk an arm. Measured on `osie`, too, where it is registered: there people's
    fixations say whether it helped, on pictures that neither the arms nor the maps' model were trained on.
    """
    gained = ("saliency_gain", "saliency_gain@center", "saliency_gain@shuffled")

    def branches(codec: str, names: tuple[str, ...]) -> tuple[Experiment, ...]:
        return grid(
            dataset,
            codecs=(codec,),
            arms=names,
            lambdas=ARMS_LAMBDAS,
            preset="smoke",
            trunk="shipped",
            variable=True,
        )

    return Sweep(
        "arms",
        dataset,
        (
            *branches("bls2017", ("uniform", *gained)),
            *branches("mbt2018_mean", ("uniform", *gained)),
            *branches("bls2017", ("weighted", "saliency_concat")),
        ),
        about="Two codecs, arms and controls: variable-rate branches of the shipped trunks; measured on `osie`, too.",
        also_on=("osie",),
    )


def unsent(dataset: str) -> Sweep:
    """What a map can do that is not in the file: the encoder alone knows it. Longer branches than those of `arms`, since
    encoder and hyperprior have to learn what a level map says outright; the layers that learn it start from nothing and
    learn faster than the trunk's."""
    return Sweep(
        "unsent",
        dataset,
        grid(
            dataset,
            codecs=("mbt2018_mean",),
            arms=(
                *arms_and_controls(("saliency_hyper",), ("center", "shuffled")),
                "saliency_sft",
                "saliency_concat",
            ),
            lambdas=ARMS_LAMBDAS,
            preset="smoke",
            trunk="shipped",
            overrides=override("smoke", steps=600, fresh_lr_factor=10.0),
            variable=True,
        ),
        about="Maps that stay with the encoder: levels told by the hyperprior, feature transforms, fourth input; measured on `osie`, too.",
        also_on=("osie",),
    )


def source(dataset: str) -> Sweep:
    """The source's own recipe beside `uniform` and the normalised weights: what un-normalised weights do to the rate."""
    return Sweep(
        "source",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform", "weighted_raw", "weighted"),
            lambdas=SMOKE_LAMBDAS,
            preset="smoke",
            trunk="shipped",
            overrides=override("smoke", steps=400, lr=3e-4),
            variable=True,
        ),
        about="The source's un-normalised weights beside uniform and normalised ones: branches of the shipped trunk.",
    )


def trade(dataset: str) -> Sweep:
    """What `saliency_gain` gains where people look against what it costs elsewhere, over span and gamma."""
    return Sweep(
        "trade",
        dataset,
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform", "saliency_gain"),
            lambdas=SMOKE_LAMBDAS,
            preset="smoke",
            trunk="shipped",
            settings=[{"span": span, "gamma": gamma} for gamma in (0.5, 1.0) for span in (2.0, 3.0, 4.0)],
            variable=True,
        ),
        about="The trade of saliency_gain over span and gamma: variable-rate branches of the shipped trunk, one a setting.",
    )


def _generative(dataset: str, rates: Iterable[float], **fields: Any) -> tuple[Experiment, ...]:
    fields = {"preset": "gan_small", **fields}
    return tuple(Experiment(dataset=dataset, codec=GENERATIVE[0], lmbda=(c,), **fields) for c in rates)


def gan(dataset: str) -> Sweep:
    """The extreme codec at every rate, from scratch."""
    return Sweep(
        "gan",
        dataset,
        _generative(dataset, GENERATIVE_RATES),
        about="Agustsson et al. 2019 at C = 2, 4, 8 and 16 (0.018 to 0.145 bpp), from scratch.",
    )


def gan_long(dataset: str) -> Sweep:
    """The extreme codec at two rates with an hour on a CPU core: first the distortion alone, then the rest."""
    found: list[Experiment] = []
    for c in (4.0, 8.0):
        trunk = Trunk(
            dataset=dataset,
            codec=GENERATIVE[0],
            preset="gan_medium",
            lmbda=(c,),
            options=(("start", 1.0),),
        )
        found += _generative(dataset, (c,), preset="gan_medium", trunk=trunk)
    return Sweep(
        "gan-long",
        dataset,
        tuple(found),
        about="The extreme codec at C = 4 and 8, an hour each on one core: distortion alone, then with discriminators.",
    )


def gan_saliency(dataset: str) -> Sweep:
    """The extreme codec's saliency arms with controls, branches of one trunk for each rate, at a small budget."""
    arms = ["uniform"]
    for mechanism in ("weighted", "saliency_concat", "saliency_select"):
        arms += [mechanism, f"{mechanism}@shuffled", f"{mechanism}@center"]
    found: list[Experiment] = []
    for c in GENERATIVE_RATES:
        longer = override("gan_small", n=64, trunk_steps=1500, warmup_steps=50)
        trunk = Trunk(dataset=dataset, codec=GENERATIVE[0], preset="gan_small", lmbda=(c,), overrides=longer)
        for name in arms:
            branch = override("gan_small", n=64, steps=250, warmup_steps=20)
            found += _generative(dataset, (c,), trunk=trunk, overrides=branch, **arm(name))
    return Sweep(
        "gan-saliency",
        dataset,
        tuple(found),
        about="The extreme codec told about saliency: weighted distortion, the encoder's fourth plane, selective compression; half an hour on two cores.",
    )


def gan_faults(dataset: str) -> Sweep:
    """The sound extreme codec and one with each fault of the public port, at the same small budget."""
    budget = override("gan_small", **FAULT_BUDGET)
    found: list[Experiment] = []
    for fault in FAULTS:
        found += _generative(dataset, (8.0,), overrides=budget, options=(("fault", fault),))
    return Sweep(
        "gan-faults",
        dataset,
        tuple(found),
        about="What ailed the public port of Agustsson et al. 2019, one fault at a time, beside the sound codec.",
    )


def gan_memorisation(dataset: str) -> Sweep:
    """Which fault lets a codec memorise its training pictures? For a dataset of a few dozen small pictures."""
    budget = override("gan_small", **{**FAULT_BUDGET, "steps": 2_500})
    found: list[Experiment] = []
    for fault in ("", "gradient", "augment", "augment+gradient", "augment+gradient+relu+scale"):
        found += _generative(dataset, (8.0,), overrides=budget, options=(("fault", fault),))
    return Sweep(
        "gan-memorisation",
        dataset,
        tuple(found),
        about="The public port's faults alone and together, for so many rounds over few pictures that they can be memorised.",
    )


def gan_remedies(dataset: str) -> Sweep:
    """The remedies that the source tried, one at a time around one record at a small budget."""
    budget = FAULT_BUDGET
    changes: list[dict[str, Any]] = [{}, {"options": (("noise", 4),)}]
    changes += [{"distortion": "ms_ssim", "options": (("fidelity", w),)} for w in (3.0, 10.0)]
    changes += [{"overrides": {"batch_size": b}} for b in (1, 8)]
    changes += [{"overrides": {"lr": lr}} for lr in (2e-4, 2e-3)]
    found: list[Experiment] = []
    for change in changes:
        overrides = override("gan_small", **{**budget, **change.pop("overrides", {})})
        found += _generative(dataset, (8.0,), overrides=overrides, **change)
    return Sweep(
        "gan-remedies",
        dataset,
        tuple(found),
        about="Noise, MS-SSIM for MSE, batch sizes, learning rates: each against the same base; held-out metrics along the way.",
    )


def gan_tiny(dataset: str) -> Sweep:
    """Two rates and two arms with next to no training: for the project's own tests."""
    found: list[Experiment] = []
    for name in ("uniform", "saliency_select"):
        found += _generative(dataset, (4.0, 8.0), preset="gan_tiny", **arm(name))
    return Sweep("gan-tiny", dataset, tuple(found), about="Seconds of training: for the project's own tests.")


FAULT_BUDGET: Mapping[str, float] = {"n": 64, "steps": 600, "warmup_steps": 50}
"""What each run of `gan-faults` and `gan-remedies` gets, and but for the steps of `gan-memorisation`."""


def dilated(dataset: str) -> Sweep:
    """The source's trial of a wider receptive field: bls2017 with dilated inner layers beside the plain one."""
    plain, wide = (
        grid(
            dataset,
            codecs=("bls2017",),
            arms=("uniform",),
            lambdas=SEED_LAMBDAS,
            preset="base",
            options=options,
        )
        for options in ((), (("dilation", 2),))
    )
    return Sweep(
        "dilated",
        dataset,
        plain + wide,
        about="The source's trial: bls2017 with dilated inner layers beside the plain one; results/checkerboard.py measures the ripple.",
    )


SWEEPS: dict[str, Callable[[str], Sweep]] = {
    f.__name__: f for f in (smoke, tiny, game, arms, unsent, seed, paper, dilated, source, trade)
}
SWEEPS |= {
    f.__name__.replace("_", "-"): f
    for f in (gan, gan_long, gan_saliency, gan_faults, gan_memorisation, gan_remedies, gan_tiny)
}


def sweep(name: str, dataset: str, registered: Iterable[str] = ()) -> Sweep:
    """The sweep of this name on a dataset; `registered`: the datasets that there are, for `Sweep.also_on`.

    Raises FoveaError for an unknown name.
    """
    if name not in SWEEPS:
        raise FoveaError(f"unknown sweep {name!r}; known: {', '.join(SWEEPS)}")
    return SWEEPS[name](dataset).measured_on(registered)
