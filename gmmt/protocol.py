"""The conventions behind a score: each choice that toolkits make differently, by name."""

import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from gmmt.errors import SettingError, did_you_mean

MOST_THRESHOLDS = 1_000_001


@dataclass(frozen=True)
class Protocol:
    """The conventions behind a score; each field is one choice that toolkits make differently.

    name: how tables call it.
    precision_threshold: PR counts frames with a centre error up to this many pixels.
    precision_strict: only those with less.
    norm_precision_threshold: the same for the normalised error; its comparison is always <=.
    success_thresholds: SR averages over so many, equally spaced in [0, 1], both ends included.
    success_grid: how they are computed: "matlab", whose 0:0.05:1 counts its upper half down from 1,
        or "linspace", numpy's. They differ by 1e-16, which decides overlaps that equal a threshold.
    success_strict: a frame succeeds where overlap > threshold, not >=, which all do at threshold 0.
    area: "mean" of the success curve's points, or its "trapezoid" integral (end points weigh half).
    modality: "best" takes a frame's smaller error and larger overlap of the annotated modalities
        (MPR, MSR); "first", "second": one.
    pool: "sequences" gives every sequence the same weight, "frames" every frame.
    first_frame: "truth" replaces the first predicted box by the ground truth, given to the tracker.
    invalid_prediction: a predicted box without area, or NaN, is kept ("keep") or replaced by the
        last valid one of the file ("repeat"), before `first_frame`.
    invalid_truth: "keep" compares with whatever is annotated; "any" marks rows with any field <= 0,
        "size" only those with w <= 0 or h <= 0: such a frame counts as a hit in PR and NPR and as a
        miss in SR; "drop" leaves out frames without a target (w <= 0 or h <= 0 in all modalities),
        and with a warning sequences that have no others.
    rounding: "none" or "round" (predicted boxes to whole pixels, halves to even).
    lengths: where a result has more or fewer rows than the ground truth, "one" clips both to the
        shorter one if they differ by one row, else refuses; "surplus" also cuts any surplus of the
        result; "clip" always clips; "pad" counts missing rows as misses. Each warns.
    dtype: of the arithmetic; float32 moves overlaps that equal a threshold (0.6 > 0.6 in float32).
    """

    name: str
    precision_threshold: float = 20.0
    precision_strict: bool = False
    norm_precision_threshold: float = 0.2
    success_thresholds: int = 21
    success_grid: Literal["matlab", "linspace"] = "matlab"
    success_strict: bool = True
    area: Literal["mean", "trapezoid"] = "mean"
    modality: Literal["best", "first", "second"] = "best"
    pool: Literal["sequences", "frames"] = "sequences"
    first_frame: Literal["keep", "truth"] = "keep"
    invalid_prediction: Literal["keep", "repeat"] = "keep"
    invalid_truth: Literal["keep", "any", "size", "drop"] = "keep"
    rounding: Literal["none", "round"] = "none"
    lengths: Literal["one", "surplus", "clip", "pad"] = "one"
    dtype: Literal["float64", "float32"] = "float64"

    def __post_init__(self):
        for name, kind in typing.get_type_hints(Protocol).items():
            value, words = getattr(self, name), typing.get_args(kind)
            if words and value not in words:
                hint = did_you_mean(value, words)
                raise SettingError(f"{name} is one of {', '.join(words)}, not {value!r}.{hint}")
            if kind in (int, float) and not 0 < value < np.inf:
                raise SettingError(f"{name} is a number above 0, not {value}")
        if not 2 <= self.success_thresholds <= MOST_THRESHOLDS:
            raise SettingError(f"success_thresholds is 2 (0 and 1) to {MOST_THRESHOLDS}")


# The official protocol of each benchmark, as its MATLAB toolkit computes it.
PROTOCOLS: Mapping[str, Protocol] = {
    "gtot": Protocol(
        "GTOT",
        precision_threshold=5.0,
        precision_strict=True,
        success_thresholds=51,
        area="trapezoid",
        pool="frames",
    ),
    "rgbt210": Protocol("RGBT210"),
    "rgbt234": Protocol("RGBT234"),
    "lasher": Protocol(
        "LasHeR",
        modality="first",
        first_frame="truth",
        invalid_prediction="repeat",
        invalid_truth="any",
        lengths="surplus",
    ),
    # With no toolkit to compare: see CAVEATS.
    "vtuav": Protocol("VTUAV", invalid_truth="drop"),
}
CAVEATS = {
    "VTUAV": "Scores on VTUAV were not compared with an official toolkit: of the frames that are "
    "annotated, and in which the target is, the better of the RGB and the thermal box; PR at 20 "
    "pixels, SR at MATLAB's 21 thresholds."
}
"""What `explain` says first of a protocol that is not known to be the official one."""


def thresholds(protocol: Protocol) -> np.ndarray:
    """The overlaps [n], from 0 to 1, over which SR averages."""
    n = protocol.success_thresholds - 1
    if protocol.success_grid == "linspace":
        return np.linspace(0, 1, n + 1)
    up = np.arange(n + 1) * (1 / n)
    down = 1 - up[::-1]
    return np.where(np.arange(n + 1) <= n // 2, up, down)


def changed(protocol: Protocol, changes: Iterable[str]) -> Protocol:
    """A protocol with changes "field=value"; SettingError, with what there is, for a bad one."""
    kinds = typing.get_type_hints(Protocol)
    del kinds["name"]  # a table of one benchmark's protocol may not be called by another's name
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in kinds:
            raise SettingError(
                f"{change!r}: expected FIELD=VALUE with one of the fields {', '.join(kinds)}."
                f"{did_you_mean(name, kinds)}"
            )
        values[name] = _value(name, text, kinds[name])
    return replace(protocol, **values)


def _value(name: str, text: str, kind: type) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise SettingError(f"{name} is true or false, not {text!r}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise SettingError(f"{name} is a number ({kind.__name__}), not {text!r}") from None
    return text


def explain(protocol: Protocol, official: Protocol) -> str:
    """Every choice of a protocol with its meaning, a paragraph each; marks those that are not the
    official ones.
    """
    paragraphs = re.split(r"\n(?=\w+: )", inspect.cleandoc(Protocol.__doc__))
    meanings = dict(" ".join(text.split()).split(": ", 1) for text in paragraphs[1:])
    lines = [textwrap.fill(CAVEATS[official.name], 96)] if official.name in CAVEATS else []
    for field in fields(protocol):
        value, usual = getattr(protocol, field.name), getattr(official, field.name)
        note = "" if value == usual else f"  (official: {usual})"
        lines.append(f"{field.name} = {value}{note}")
        lines.append(textwrap.indent(textwrap.fill(meanings[field.name], 92), "    "))
    return "\n".join(lines)
