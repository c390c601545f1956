"""One configuration: a frozen tree that says all that a row of a table depends on.

It is read from YAML (config_file.py). What a file leaves out has the default of the dataclass, or
of the constructor that it is for: `resolve` fills it in, so that `show` prints every value that is
meant, and a hash of the tree tells two rows apart.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from gmmt.errors import SettingError, did_you_mean
from gmmt.rates import stepped, warmed_up

PARTS: Mapping[str, str] = {
    "siamese": "gmmt.trackers.siamese:Siamese",
    "ostrack": "gmmt.trackers.vit:OSTrack",
    "vipt": "gmmt.trackers.vipt:ViPT",
    "tbsi": "gmmt.trackers.tbsi:TBSI",
    "unet": "gmmt.networks.unet:UNet",
    "uvit": "gmmt.networks.uvit:UViT",
    "discriminator": "gmmt.networks.discriminator:Discriminator",
}
"""What a configuration can be built of, and which class each is."""
NETWORKS = ("unet", "uvit", "discriminator")
"""Parts whose `channels` are those of the tracker that they are made for."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


def frozen(kind: type) -> type:
    """Makes a frozen dataclass that refuses unknown fields when it is read from a file."""
    kind.__pydantic_config__ = {"extra": "forbid"}
    return dataclass(frozen=True)(kind)


@frozen
class Part:
    """A network or tracker: its class, and every argument of its constructor."""

    kind: str  # a key of PARTS
    args: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Data:
    """Which videos a row is trained, chosen and tested on, and how pairs are drawn from them."""

    # mini-rgbt or roadscene-motion, which are drawn: see gmmt/data/synthetic.py; or a data set on a
    # disk, by the name of its manifest: lasher
    source: str = "mini-rgbt"
    root: str = ""  # the data set's folder; data/NAME unless given
    split: str = "train"  # which part of a data set is trained on; its "test" is tested on
    part: bool = False  # of a data set, take the sequences that are there, even if some are not
    train: int = 40  # training sequences, as the three below of what is drawn
    frames: int = 6  # frames taken from each of them
    length: int = 48  # frames of a sequence
    val: int = 8  # validation sequences
    test: int = 8  # test sequences
    samples: PositiveInt = 60000  # pairs of an epoch
    # Pairs of a data set are drawn and cut as the released code does that the tracker's
    # `whole_pixels` names. Jitter is in that code's units, elsewhere in shares of the crop's side.
    interval: PositiveInt = 200  # of frames between template and search patch, as that code counts
    negative: float = 0.2  # share of the pairs that are of two different sequences
    template_shift: float = 0.03
    template_scale: float = 0.05
    search_shift: float = 0.25
    search_scale: float = 0.18
    reduced: bool = False  # decode images at a half, ... of their size where a crop allows it
    workers: NonNegativeInt = 2  # processes that read a data set's images


@frozen
class Plan:
    """How one stage is trained."""

    steps: NonNegativeInt | None = None
    epochs: NonNegativeInt = 0  # in the place of `steps`: as many times Data.samples pairs
    batch: PositiveInt = 32  # pairs in a step, over all processes
    optimizer: Literal["adamw", "sgd"] = (
        "adamw"  # needs fewer steps than the paper's "sgd" (momentum 0.9)
    )
    rate: PositiveFloat = 2e-3  # the highest learning rate
    warmup: NonNegativeFloat = 0.1  # share of the steps before it, which rise linearly
    first: PositiveFloat = (
        0.2  # the first rate, and the last, to which it falls geometrically: shares
    )
    last: PositiveFloat = 0.01  # of the highest
    # How often the rate changes: in every step; in every epoch, rising geometrically, too
    # (SiamBAN); or once, to a tenth, after `drop_after` epochs (OSTrack, ViPT, TBSI).
    rate_changes: Literal["steps", "epochs", "once"] = "steps"
    drop_after: NonNegativeInt = 0
    rate_share: Mapping[str, float] = field(
        default_factory=dict
    )  # parameters' names: shares of rate
    frozen_until: Mapping[str, int] = field(
        default_factory=dict
    )  # and the epoch (from 0) they begin in
    eliminate: tuple[int, int] | None = None  # epochs (from 1) between which tokens grow fewer
    weight_decay: NonNegativeFloat = 1e-4
    clip: PositiveFloat = 10.0  # the largest norm of a gradient
    loss: Literal["ours", "released"] = "ours"  # of tracking: see Tracker.released_loss
    lam: float = 1.0  # lambda of Eq. (5): the weight of the generative loss, in stage 2

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step: warm-up from `first`, geometric decay to `last`,
        both as shares of `rate`; or what `rate_changes` says.
        """
        if self.rate_changes == "once":
            return self.rate * stepped(self.epoch_of(step), self.drop_after)
        if self.rate_changes == "epochs":
            n = max(1, self.epochs)
            ramp = round(self.warmup * n)
            return self.rate * warmed_up(self.epoch_of(step), n, ramp, self.first, self.last)
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return self.rate * (self.first + (1 - self.first) * step / ramp)
        return self.rate * self.last ** ((step - ramp) / max(1, self.steps - ramp - 1))

    def epoch_of(self, step: int) -> int:
        """Returns the epoch, from 0, that a step is in; without epochs all are in the first."""
        return step * self.epochs // max(1, self.steps)


@frozen
class Schedule:
    """The noise schedule of a diffusion model."""

    kind: Literal["cosine", "linear"] = "cosine"
    T: PositiveInt = 1000


@frozen
class Generator:
    """What makes `fused` in stage 2: a variant of gmmt/fusion.py around a network U."""

    variant: Literal["DM", "CGAN", "RAW", "NOISE", "TRK"]
    network: Part
    discriminator: Part | None = None  # of CGAN
    schedule: Schedule | None = None  # of DM, as the three below
    target: str | None = None
    weighting: str | None = None
    track_t: str | None = None
    time: str | None = None
    statistics: tuple[PositiveInt, PositiveInt] = (
        4,
        64,
    )  # batches, and their size, that standardise features


@frozen
class Start:
    """Official weights from which a tracker starts."""

    # resnet50: the Siamese backbones' alone; none: random weights, whatever the file
    kind: Literal["ostrack", "vipt", "tbsi", "resnet50", "none"]
    file: str = ""


@frozen
class Compute:
    """On what the numbers' last digits depend, beside the machine."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of autocast in training
    threads: PositiveInt = 1  # of torch on a CPU; on a GPU they do not matter
    parts: PositiveInt = 1  # in which a process computes its share of a batch, to save memory


@frozen
class Config:
    """All that a row depends on, but for the seed, the code and the machine."""

    name: str
    mode: Literal["rgb", "tir", "base", "stage2"]  # which head answers in the end
    tracker: Part
    stages: tuple[str, ...]  # what is trained, in this order
    plans: Mapping[str, Plan]  # of each of these stages
    names: Mapping[str, str]  # the row that each stage makes; the last one makes this one
    data: Data = field(default_factory=Data)
    generator: Generator | None = None
    foundation: "Config | None" = None  # a row from whose weights this one starts
    start: Start | None = None  # or official ones
    reading: Mapping[str, Any] = field(
        default_factory=dict
    )  # tracking.Reading: how a score map is read
    compute: Compute = field(default_factory=Compute)
    meaning: str = ""  # words, for tables

    def until(self, stage: str) -> tuple[str, ...]:
        """Returns the stages that come before one."""
        return self.stages[: self.stages.index(stage)]


FIELDS = (Config, Data, Plan, Part, Generator, Schedule, Start, Compute)
"""Whose fields a file may name."""


# --- resolving: every value that is meant ---------------------------------------------------------


def module_of(part: Part) -> str:
    """Returns the module in which the class of a part stands."""
    return PARTS[part.kind].partition(":")[0]


def class_of(part: Part) -> type:
    """Returns the class of a part; SettingError if there is no such kind."""
    _all_known([part.kind], PARTS, "the list of parts")
    module, _, name = PARTS[part.kind].partition(":")
    return getattr(importlib.import_module(module), name)


def resolve(config: Config, where: str = "the configuration") -> Config:
    """Returns a configuration in which no value is left to a default elsewhere.

    SettingError: it names something that does not exist, or lacks something; begins with `where`.
    """
    if config.mode == "stage2" and "2" not in config.stages:
        raise SettingError(f"{where}: mode stage2 needs stage 2 among its stages")
    tracker, generator = _resolve_part(config.tracker, where), config.generator
    constants = class_of(tracker).reading
    _all_known(config.reading, constants, f"{where}: reading")
    reading = {**constants, **config.reading}
    if generator is not None:
        generator = _resolve_generator(generator, f"{where}, generator")
    plans = {
        stage: _resolve_plan(plan, config.data.samples, f"{where}: plans: {stage}")
        for stage, plan in config.plans.items()
    }
    start = None if config.start is not None and config.start.kind == "none" else config.start
    config = replace(config, tracker=tracker, reading=reading, generator=generator, start=start)
    return replace(config, plans=plans)


def _resolve_plan(plan: Plan, samples: int, where: str) -> Plan:
    """Returns a plan that says how many steps it has."""
    if plan.epochs == 0 and plan.steps is not None:
        return plan
    if plan.epochs == 0 or plan.steps is not None:
        raise SettingError(f"{where}: expected steps, or epochs, one of both")
    if samples < plan.batch:
        raise SettingError(
            f"{where}: an epoch of {samples} pairs (data.samples) is less than a batch of "
            f"{plan.batch}"
        )
    return replace(plan, steps=plan.epochs * (samples // plan.batch))


def _all_known(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Raises SettingError, which begins with `where`, for the first name that is not known."""
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise SettingError(
                f"{where} has no {name!r}; expected some of {', '.join(known)}.{hint}"
            )


def _resolve_part(part: Part, where: str) -> Part:
    """Returns a part with every argument of its constructor but `channels`, which its tracker
    decides.
    """
    known = dict(inspect.signature(class_of(part)).parameters)
    if part.kind in NETWORKS:
        del known["channels"]
    _all_known(part.args, known, f"{where}: {part.kind}")
    defaults = {name: parameter.default for name, parameter in known.items()}
    return Part(part.kind, plain({**defaults, **part.args}))


def _resolve_generator(generator: Generator, where: str) -> Generator:
    """Returns a generator with the options of its variant, and no others."""
    of_dm, of_cgan = ("schedule", "target", "weighting", "track_t", "time"), ("discriminator",)
    for variant, names in (("DM", of_dm), ("CGAN", of_cgan)):
        for name in names:
            if generator.variant != variant and getattr(generator, name) is not None:
                raise SettingError(f"{where}: {generator.variant} has no {name}; {variant} has")
    values: dict[str, Any] = {"network": _resolve_part(generator.network, where)}
    if generator.variant == "DM":
        from gmmt.fusion import DiffusionFusion

        values["schedule"] = generator.schedule or Schedule()
        defaults = inspect.signature(DiffusionFusion).parameters
        for name in of_dm[1:]:
            values[name] = getattr(generator, name) or defaults[name].default
    if generator.variant == "CGAN":
        if generator.discriminator is None:
            raise SettingError(f"{where}: CGAN needs a discriminator (kind: discriminator)")
        values["discriminator"] = _resolve_part(generator.discriminator, where)
    return replace(generator, **values)


# --- writing out ----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Returns a value as JSON and YAML can hold it: mappings with text keys, lists, plain
    values.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise SettingError(f"a configuration cannot hold {value!r}: expected plain values")


def show(config: Config) -> str:
    """Returns the configuration with every value that is meant, as YAML."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=100)
