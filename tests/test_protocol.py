"""Conventions: MATLAB's thresholds, what may be changed, how they are explained."""

import json
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest

from gmmt import sanity
from gmmt.data.benchmarks import ground_truth
from gmmt.errors import SettingError
from gmmt.metrics import METRICS, PROTOCOLS, measure, score
from gmmt.protocol import Protocol, changed, explain, thresholds

# --- MATLAB's thresholds --------------------------------------------------------------------------


def test_matlab_counts_the_upper_half_of_a_range_down_from_its_end():
    found, numpy = thresholds(Protocol("p")), np.linspace(0, 1, 21)
    assert found.tolist() == [k * 0.05 for k in range(11)] + [
        1 - k * 0.05 for k in range(9, -1, -1)
    ]
    assert found[13] < 0.65 == numpy[13]
    assert np.abs(found - numpy).max() < 2.3e-16
    assert thresholds(Protocol("p", success_grid="linspace")).tolist() == numpy.tolist()
    assert (np.diff(thresholds(PROTOCOLS["gtot"])) > 0).all()


def test_an_overlap_that_equals_a_threshold_is_decided_by_the_grid():
    truth, found = np.array([[0.0, 0, 20, 1]]), np.array([[0.0, 0, 13, 1]])  # overlap 13 / 20
    for grid, passed in (("matlab", 14), ("linspace", 13)):
        protocol = Protocol("p", success_grid=grid)
        assert score({"s": found}, {"s": (truth,)}, protocol).mean("SR") == pytest.approx(
            passed / 21
        )


def test_matlabs_own_counts_come_back_exactly(shared, tmp_path):
    """CAT's files on LasHeR as published, 1224 of them, against the curves of LasHeR's toolkit."""
    with zipfile.ZipFile(shared / "field" / "CAT_lasher.zip") as archive:
        archive.extractall(tmp_path)
    counts = json.loads((shared / "field" / "CAT_lasher_matlab_counts.json").read_text())
    truth, protocol = ground_truth("lasher"), PROTOCOLS["lasher"]
    with pytest.warns(UserWarning, match="979 other text files"):
        boxes = sanity.read_results(tmp_path, truth)
    frames = measure(boxes, truth.boxes, protocol)
    ends = np.cumsum(frames.lengths)
    for name, end, n in zip(frames.sequences, ends, frames.lengths, strict=True):
        overlaps = frames.overlap[end - n : end]
        assert n == counts["frames"][name]
        ours = [int((overlaps > threshold).sum()) for threshold in thresholds(protocol)]
        assert ours == counts["counts"][name], name
    assert len(counts["counts"]) == 245
    values = [f"{100 * score(boxes, truth.boxes, protocol).mean(m):.1f}" for m in METRICS]
    assert values == ["45.0", "39.5", "31.4"]  # as printed


# --- LasHeR's rules -------------------------------------------------------------------------------


def lasher(boxes_of, **options):
    """The scores on LasHeR in percent of boxes made from the truth of each sequence."""
    truth = ground_truth("lasher").boxes
    boxes = {name: boxes_of(rows) for name, (rows,) in truth.items()}
    scores = score(boxes, truth, replace(PROTOCOLS["lasher"], **options))
    return [round(100 * scores.mean(metric), 2) for metric in METRICS]


def test_files_of_zeros_on_lasher():
    """Invalid rows are repeated before the first becomes the truth: all others stay invalid."""
    assert lasher(np.zeros_like) == [0.95, 0.93, 0.36]


@pytest.mark.filterwarnings("ignore:sequence")
def test_files_of_one_row_on_lasher_padded():
    assert lasher(lambda rows: rows[:1], lengths="pad") == [0.93, 0.93, 0.36]


def test_any_surplus_is_cut_on_lasher_with_one_warning():
    def longer(rows):
        return np.concatenate([rows, rows[:7]])

    with pytest.warns(UserWarning, match="the common part is compared .*245 in all") as seen:
        assert lasher(longer) == lasher(np.copy)
    assert len(seen) == 1


@pytest.mark.parametrize("nothing", [np.nan, 0.0, -1.0])
def test_an_invalid_row_repeats_the_one_before_on_lasher_and_stays_elsewhere(nothing):
    truth = np.array([[10.0, 10, 10, 10]] * 6)
    found = truth.copy()
    found[2:4] = nothing
    for benchmark, hits in (("lasher", 6), ("rgbt234", 4)):
        s = score({"s": found}, {"s": (truth, truth)}, PROTOCOLS[benchmark])
        assert [s.mean("SR"), s.mean("NPR")] == pytest.approx([20 / 21 * hits / 6, hits / 6])


# --- changes and words ----------------------------------------------------------------------------


def test_every_field_can_be_changed_by_its_text():
    text = {"precision_threshold": "7.5", "precision_strict": "True"}
    text |= {"norm_precision_threshold": "0.3", "success_thresholds": "51"}
    text |= {"success_grid": "linspace", "success_strict": "false", "area": "trapezoid"}
    text |= {"modality": "second", "pool": "frames", "first_frame": "truth"}
    text |= {"invalid_prediction": "repeat", "invalid_truth": "size", "rounding": "round"}
    text |= {"lengths": "clip", "dtype": "float32"}
    assert {"name", *text} == {field.name for field in fields(Protocol)}
    found = changed(PROTOCOLS["rgbt234"], [f"{name}={value}" for name, value in text.items()])
    values = (7.5, True, 0.3, 51, "linspace", False, "trapezoid", "second", "frames", "truth")
    values += ("repeat", "size", "round", "clip", "float32")
    assert found == Protocol("RGBT234", *values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("invalid_truth", "expected FIELD=VALUE with one of the fields precision_threshold, "),
        ("invalid_trut=size", r"Did you mean invalid_truth\?"),
        (
            "invalid_truth=sise",
            r"invalid_truth is one of keep, any, size, drop.*Did you mean size\?",
        ),
        ("precision_threshold=far", "precision_threshold is a number"),
        ("precision_threshold=-1", "precision_threshold is a number above 0"),
        ("name=LasHeR", "expected FIELD=VALUE"),
        ("precision_threshold=inf", "precision_threshold is a number above 0"),
        ("success_thresholds=1000000000", "success_thresholds is 2"),
        ("precision_threshold=nan", "precision_threshold is a number above 0"),
        ("success_thresholds=1", r"success_thresholds is 2 \(0 and 1\)"),
        ("success_strict=maybe", "success_strict is true or false"),
    ],
)
def test_a_bad_change_is_refused_with_what_there_is(change, message):
    with pytest.raises(SettingError, match=message):
        changed(PROTOCOLS["gtot"], [change])


def test_every_convention_is_explained():
    official = PROTOCOLS["lasher"]
    text = explain(replace(official, modality="best"), official)
    for field in fields(Protocol):
        line = next(line for line in text.splitlines() if line.startswith(f"{field.name} = "))
        assert ("(official: first)" in line) == (field.name == "modality")
    assert text.count("\n    ") >= len(fields(Protocol))
