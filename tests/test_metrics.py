"""Metrics against brute force, closed forms, and the invariances that any score must have."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gmmt import metrics, protocol
from gmmt.errors import ResultFileError
from gmmt.metrics import PROTOCOLS, Protocol, score

boxes = arrays(
    np.float64,
    st.tuples(st.integers(1, 8), st.just(4)),
    elements=st.integers(-2, 40).map(lambda v: v / 2),
)


def brute_force(predictions, truths, p):
    """PR, NPR, SR of a benchmark, frame by frame and threshold by threshold, in plain Python; None
    if there is no frame to score.
    """
    last_k = p.success_thresholds - 1
    step = 1 / last_k
    if p.success_grid == "matlab":  # which decides ties: 3 * 0.05 > 0.15 = 3 / 20 > 1 - 17 * 0.05
        thresholds = [
            k * step if 2 * k <= last_k else 1 - (last_k - k) * step for k in range(last_k + 1)
        ]
    else:
        thresholds = [k * step for k in range(last_k + 1)]
    per_sequence, frames = [], []
    for name, annotated in truths.items():
        chosen = {"best": annotated, "first": annotated[:1], "second": annotated[1:2]}[p.modality]
        hits, last = [], None
        for i in range(len(chosen[0])):
            box = [round(v) if p.rounding == "round" else v for v in predictions[name][i].tolist()]
            if p.invalid_prediction == "repeat" and i > 0 and not (box[2] > 0 and box[3] > 0):
                box = last
            last = box  # of the file, even where the first is then replaced
            if i == 0 and p.first_frame == "truth":
                box = chosen[0][0].tolist()
            marks, measured = [], []
            for truth in chosen:
                t = truth[i].tolist()
                checked = {"keep": [1], "any": t, "size": t[2:], "drop": t[2:]}[p.invalid_truth]
                marks.append(not all(v > 0 for v in checked))
                dx, dy = (
                    box[0] + box[2] / 2 - t[0] - t[2] / 2,
                    box[1] + box[3] / 2 - t[1] - t[3] / 2,
                )
                e = math.hypot(dx, dy)
                n = math.hypot(dx / t[2], dy / t[3]) if t[2] and t[3] else math.inf
                shared = max(0, min(box[0] + box[2], t[0] + t[2]) - max(box[0], t[0]))
                shared *= max(0, min(box[1] + box[3], t[1] + t[3]) - max(box[1], t[1]))
                union = box[2] * box[3] + t[2] * t[3] - shared
                measured.append((e, n, shared / union if union > 0 else 0.0))
            if p.invalid_truth == "drop" and all(marks):
                continue
            if p.invalid_truth in ("any", "size"):
                measured = [
                    (-1, -1, -1) if mark else m for mark, m in zip(marks, measured, strict=True)
                ]
            e, n, o = (
                min(m[0] for m in measured),
                min(m[1] for m in measured),
                max(m[2] for m in measured),
            )
            curve = [o > t if p.success_strict else o >= t for t in thresholds]
            area = sum(curve) / len(curve)
            if p.area == "trapezoid":
                area = sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)
            hits.append(
                (
                    e < p.precision_threshold if p.precision_strict else e <= p.precision_threshold,
                    n <= p.norm_precision_threshold,
                    area,
                )
            )
        frames += hits
        if hits:
            per_sequence.append([sum(h) / len(hits) for h in zip(*hits, strict=True)])
    rows = frames if p.pool == "frames" else per_sequence
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else None


protocols = st.builds(
    Protocol,
    name=st.just("random"),
    precision_threshold=st.sampled_from([2.0, 5.0]),
    precision_strict=st.booleans(),
    norm_precision_threshold=st.just(
        0.2123
    ),  # no ties: centres are divided before they are subtracted, which rounds them otherwise
    success_thresholds=st.sampled_from([5, 21]),
    success_grid=st.sampled_from(["matlab", "linspace"]),
    success_strict=st.booleans(),
    area=st.sampled_from(["mean", "trapezoid"]),
    modality=st.sampled_from(["best", "first", "second"]),
    pool=st.sampled_from(["sequences", "frames"]),
    first_frame=st.sampled_from(["keep", "truth"]),
    invalid_prediction=st.sampled_from(["keep", "repeat"]),
    invalid_truth=st.sampled_from(["keep", "any", "size", "drop"]),
    rounding=st.sampled_from(["none", "round"]),
)


@pytest.mark.filterwarnings("ignore:sequence")
@settings(max_examples=200, deadline=None)
@given(data=st.data(), protocol=protocols)
def test_any_protocol_equals_brute_force(data, protocol):
    predictions, truths = {}, {}
    for k in range(data.draw(st.integers(1, 3))):
        drawn = data.draw(boxes)
        same = arrays(np.float64, drawn.shape, elements=st.integers(-2, 40).map(lambda v: v / 2))
        predictions[f"s{k}"], truths[f"s{k}"] = drawn, (data.draw(same), data.draw(same))
    expected = brute_force(predictions, truths, protocol)
    if expected is None:
        with pytest.raises(ResultFileError, match="no sequence has a frame to score"):
            score(predictions, truths, protocol)
        return
    scores = score(predictions, truths, protocol)
    np.testing.assert_allclose([scores.mean(m) for m in metrics.METRICS], expected, atol=1e-12)


def test_dropped_frames_equal_brute_force():
    rng = np.random.default_rng(1)
    truths = {
        "a": (rng.integers(1, 30, (40, 4)).astype(float),),
        "b": (rng.integers(1, 30, (25, 4)).astype(float),),
    }
    truths["a"][0][5:9, 2:] = 0
    predictions = {n: t[0] + rng.normal(size=t[0].shape) for n, t in truths.items()}
    p = Protocol("drop", invalid_truth="drop", modality="first")
    scores = score(predictions, truths, p)
    np.testing.assert_allclose(
        [scores.mean(m) for m in metrics.METRICS], brute_force(predictions, truths, p), atol=1e-12
    )
    assert scores.n_frames.tolist() == [36, 25]


def test_the_truth_itself_scores_100_but_for_the_last_threshold():
    truth = np.array([[10.0, 20, 30, 40]] * 7)
    scores = score({"s": truth}, {"s": (truth,)}, Protocol("p"))
    assert scores.mean("PR") == scores.mean("NPR") == 1
    assert scores.mean("SR") == pytest.approx(
        20 / 21
    )  # an overlap of 1 does not exceed the threshold 1
    assert score({"s": truth}, {"s": (truth,)}, Protocol("p", success_strict=False)).mean(
        "SR"
    ) == pytest.approx(1)


def test_an_error_that_equals_the_threshold_is_a_hit_unless_precision_is_strict():
    truth, found = np.array([[0.0, 0, 4, 4]]), np.array([[2.0, 0, 4, 4]])
    p = Protocol("p", precision_threshold=2, norm_precision_threshold=0.5)  # both without rounding
    for strict, expected in ((False, (1, 1)), (True, (0, 1))):
        s = score({"s": found}, {"s": (truth,)}, replace(p, precision_strict=strict))
        assert (s.mean("PR"), s.mean("NPR")) == expected


@settings(max_examples=50, deadline=None)
@given(data=st.data(), dx=st.integers(-50, 50), dy=st.integers(-50, 50))
def test_moving_the_whole_scene_changes_nothing(data, dx, dy):
    a = data.draw(boxes)
    b = data.draw(arrays(np.float64, a.shape, elements=st.integers(1, 40).map(float)))
    shift = np.array([dx, dy, 0, 0], dtype=float)
    p = Protocol("p", precision_threshold=5)
    for metric in metrics.METRICS:
        assert score({"s": a + shift}, {"s": (b + shift,)}, p).mean(metric) == pytest.approx(
            score({"s": a}, {"s": (b,)}, p).mean(metric)
        )


def test_sr_is_the_mean_overlap_for_many_thresholds():
    rng = np.random.default_rng(0)
    truth = rng.uniform(5, 30, (200, 4))
    found = truth + rng.normal(scale=3, size=truth.shape)
    p = Protocol("fine", success_thresholds=20_001)
    assert score({"s": found}, {"s": (truth,)}, p).mean("SR") == pytest.approx(
        np.clip(metrics.overlap(found, truth), 0, 1).mean(), abs=1e-4
    )


def test_scores_are_read_off_the_curves():
    rng = np.random.default_rng(0)
    truths = {
        n: (rng.uniform(5, 30, (k, 4)), rng.uniform(5, 30, (k, 4)))
        for n, k in (("a", 30), ("b", 90))
    }
    found = {n: t[0] + rng.normal(scale=4, size=t[0].shape) for n, t in truths.items()}
    for p in PROTOCOLS.values():
        frames = metrics.measure(found, truths, p)
        scores = metrics.score_frames(frames, p)

        def share(hits, frames=frames, pool=p.pool):
            return hits.mean() if pool == "frames" else frames.mean_by_sequence(hits).mean()

        hits = (
            frames.error < p.precision_threshold
            if p.precision_strict
            else frames.error <= p.precision_threshold
        )
        assert share(hits) == pytest.approx(scores.mean("PR"))
        assert share(frames.norm_error <= p.norm_precision_threshold) == pytest.approx(
            scores.mean("NPR")
        )
        thresholds = protocol.thresholds(p)
        curve = np.array([share(frames.overlap > t) for t in thresholds])
        assert (
            np.trapezoid(curve, thresholds) if p.area == "trapezoid" else curve.mean()
        ) == pytest.approx(scores.mean("SR"))


def test_a_subset_is_scored_as_if_it_were_all():
    rng = np.random.default_rng(0)
    truths = {n: (rng.uniform(5, 30, (k, 4)),) for n, k in (("a", 3), ("b", 9), ("c", 5))}
    found = {n: t[0] + rng.normal(scale=4, size=t[0].shape) for n, t in truths.items()}
    for pool in ("frames", "sequences"):
        p = Protocol("p", pool=pool)
        part = score(found, truths, p).subset(["c", "a"])
        alone = score({n: found[n] for n in "ac"}, {n: truths[n] for n in "ac"}, p)
        assert part.sequences == alone.sequences == ("a", "c")
        assert [part.mean(m) for m in metrics.METRICS] == [alone.mean(m) for m in metrics.METRICS]


# --- protocols and presets ------------------------------------------------------------------------


def test_presets_say_what_the_official_toolkits_do():
    expected = {
        "gtot": {
            "precision_threshold": 5,
            "precision_strict": True,
            "success_thresholds": 51,
            "area": "trapezoid",
            "pool": "frames",
        },
        "rgbt234": {
            "precision_threshold": 20,
            "precision_strict": False,
            "success_thresholds": 21,
            "pool": "sequences",
        },
        "lasher": {
            "first_frame": "truth",
            "invalid_prediction": "repeat",
            "invalid_truth": "any",
            "modality": "first",
            "lengths": "surplus",
        },
    }
    for benchmark, choices in expected.items():
        for field, value in choices.items():
            assert getattr(PROTOCOLS[benchmark], field) == value, (benchmark, field)
    assert replace(PROTOCOLS["rgbt210"], name="") == replace(PROTOCOLS["rgbt234"], name="")


def test_in_lasher_an_empty_row_is_a_hit_for_pr_and_a_miss_for_sr():
    truth = np.array([[5.0, 5, 10, 10], [5, 5, 10, 10], [0, 5, 10, 10], [5, 5, 0, 0]])
    found = truth[[0, 0, 2, 0]]
    values = {}
    for rule in ("any", "size", "keep", "drop"):
        s = score({"s": found}, {"s": (truth,)}, replace(PROTOCOLS["lasher"], invalid_truth=rule))
        values[rule] = (s.mean("PR"), s.mean("SR") * 21 / 20, s.n_frames[0])
    assert values["any"] == pytest.approx(
        (1, 0.5, 4)
    )  # the box at x = 0 is marked although it is there
    assert values["size"] == pytest.approx((1, 0.75, 4))
    assert values["drop"] == pytest.approx((1, 1, 3))
