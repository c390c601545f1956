"""What each convention of a scoring protocol is worth: the official protocol with one choice made differently, on real results."""

import warnings
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gmmt.data.benchmarks import ground_truth
from gmmt.metrics import PROTOCOLS, score
from gmmt.results import RAW, raw_boxes

CHANGES: Mapping[str, tuple] = {
    "RGB annotation only": ("modality", "first"),
    "TIR annotation only": ("modality", "second"),
    "frames <-> sequences pooled": ("pool", "sequences", "frames"),
    "PR: < <-> <=": ("precision_strict", False, True),
    "SR: >= instead of >": ("success_strict", False),
    "21 <-> 51 thresholds": ("success_thresholds", 21, 51),
    "mean <-> trapezoid": ("area", "mean", "trapezoid"),
    "predictions rounded": ("rounding", "round"),
    "first box: truth <-> predicted": ("first_frame", "keep", "truth"),
    "invalid box: repeat <-> keep": ("invalid_prediction", "keep", "repeat"),
    "empty rows: only w, h <= 0": ("invalid_truth", "size"),
    "empty rows left out": ("invalid_truth", "drop"),
    "empty rows scored as any other": ("invalid_truth", "keep"),
}
"""Name of a change -> field of Protocol, and its values: the first that the official protocol does not have is taken."""

ARCHIVES = ("gmmt_gtot", "gmmt_rgbt234", "apfnet_lasher")
COLUMNS = ("tracker", "benchmark", "change", "PR", "SR")


def grid() -> list[dict] | None:
    """Returns rows (COLUMNS) with the change of PR and SR in points; None if some raw results cannot be had.

    A change that leaves the protocol as it is (LasHeR has one annotation per frame) has no row.
    """
    rows = []
    for archive in ARCHIVES:
        tracker, benchmark = RAW[archive]
        boxes, truth, official = raw_boxes(archive), ground_truth(benchmark).boxes, PROTOCOLS[benchmark]
        if boxes is None:
            return None
        one_annotation = all(len(m) == 1 for m in truth.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # files that differ by a row are reported once, where they are scored officially
            base = score(boxes, truth, official)
            for name, (field, *values) in CHANGES.items():
                value = next((v for v in values if v != getattr(official, field)), None)
                if value is None or (one_annotation and field == "modality"):
                    continue
                other = score(boxes, truth, replace(official, **{field: value}))
                shift = {m: float(np.round(100 * (other.mean(m) - base.mean(m)), 6)) for m in ("PR", "SR")}
                rows.append({"tracker": tracker, "benchmark": official.name, "change": name, **shift})
    return rows
