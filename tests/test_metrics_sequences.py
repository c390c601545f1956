"""Which sequences and frames are scored: names, lengths, absent targets, marked frames."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from gmmt import metrics
from gmmt.errors import ResultFileError
from gmmt.metrics import PROTOCOLS, Frames, Protocol, measure, score, score_frames


def scene(lengths, seed=0):
    """Boxes of sequences "a", "b", ... with so many frames, and their ground truth, all visible."""
    rng = np.random.default_rng(seed)
    truths = {
        name: (rng.integers(1, 30, (n, 4)).astype(float),)
        for name, n in zip("abcdef", lengths, strict=False)
    }
    return {name: t[0] + rng.normal(scale=2, size=t[0].shape) for name, t in truths.items()}, truths


# --- names and modalities -------------------------------------------------------------------------


def test_every_sequence_of_the_ground_truth_needs_boxes():
    found, truths = scene((4, 3, 5, 2))
    part = {name: found[name] for name in "ca"}
    with pytest.raises(ResultFileError, match=r"'b' has no predicted boxes \(2 such .* of 4\)"):
        score(part, truths, Protocol("p"))
    with pytest.raises(ResultFileError, match=r"'a' has no predicted boxes \(4 such .* of 4\)"):
        score({}, truths, Protocol("p"))
    asked = score(part, {name: truths[name] for name in "ac"}, Protocol("p"))
    assert asked.sequences == ("a", "c")  # in the ground truth's order
    assert asked.n_frames.tolist() == [4, 5]


def test_boxes_of_an_unknown_sequence_are_refused():
    found, truths = scene((4, 3))
    found["dog12"] = found["a"]
    truths["dog11"] = truths["a"]
    found["zzz"] = found["a"]
    with pytest.raises(ResultFileError, match=r"'dog12'.*2 such.*Did you mean dog11\?"):
        score(found, truths, Protocol("p"))


@pytest.mark.parametrize(("modality", "n"), [("second", 1), ("first", 0), ("best", 0)])
def test_a_modality_that_is_not_annotated_is_refused(modality, n):
    found, truths = scene((4,))
    with pytest.raises(ResultFileError, match=rf"'a': {n} modalities .*modality='{modality}'"):
        score(found, {"a": truths["a"][:n]}, Protocol("p", modality=modality))


# --- unequal lengths ------------------------------------------------------------------------------

TRUTH = np.array([[10.0, 10, 10, 10]] * 10)


def test_one_row_more_or_less_is_clipped_with_a_warning_that_names_the_sequence():
    for n in (9, 11):
        with pytest.warns(
            UserWarning, match=rf"sequence 'dog11' has {n} predicted boxes for 10 ground-truth rows"
        ):
            s = score({"dog11": np.resize(TRUTH, (n, 4))}, {"dog11": (TRUTH,)}, Protocol("p"))
        assert s.n_frames.tolist() == [min(n, 10)]
        assert s.mean("PR") == 1


@pytest.mark.parametrize("n", [3, 8, 12, 40])
def test_more_is_refused_and_told_how_to_go_on(n):
    with pytest.raises(
        ResultFileError, match=rf"'dog11' has {n} predicted boxes for 10.*--lengths clip"
    ):
        score({"dog11": np.resize(TRUTH, (n, 4))}, {"dog11": (TRUTH,)}, Protocol("p"))


def test_clip_and_pad_differ_by_the_missing_rows():
    short = {"s": TRUTH[:4]}
    with pytest.warns(UserWarning, match="the common part is compared"):
        assert score(short, {"s": (TRUTH,)}, Protocol("p", lengths="clip")).mean("PR") == 1
    with pytest.warns(UserWarning, match="missing rows count as misses"):
        padded = score(short, {"s": (TRUTH,)}, Protocol("p", lengths="pad"))
    assert padded.mean("PR") == padded.mean("NPR") == pytest.approx(0.4)
    assert padded.mean("SR") == pytest.approx(0.4 * 20 / 21)


@pytest.mark.parametrize("n", [1, 10])
def test_no_boxes_at_all_are_refused_unless_they_count_as_misses(n):
    for rule in ("one", "surplus", "clip"):
        with pytest.raises(ResultFileError, match=rf"0 predicted boxes for {n} .*--lengths pad"):
            score({"s": TRUTH[:0]}, {"s": (TRUTH[:n],)}, Protocol("p", lengths=rule))
    with pytest.warns(UserWarning, match="missing rows count as misses"):
        s = score({"s": TRUTH[:0]}, {"s": (TRUTH[:n],)}, Protocol("p", lengths="pad"))
    assert [s.mean(m) for m in metrics.METRICS] == [0, 0, 0]


def test_no_warning_where_lengths_agree():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score({"s": TRUTH}, {"s": (TRUTH,)}, Protocol("p"))


# --- absent targets, no frames --------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["a", "b", "d", "ab", "bc", "cd", "abd"])
@pytest.mark.parametrize("pool", ["frames", "sequences"])
def test_a_sequence_without_a_target_is_left_out_and_named(absent, pool):
    found, truths = scene((7, 1, 12, 5))
    for name in absent:
        truths[name][0][:, 2:] = 0
    truths["c"][0][:3, 2:] = 0
    p = Protocol("drop", invalid_truth="drop", pool=pool)
    with pytest.warns(UserWarning, match="has no frame to score and is left out") as warned:
        scores = score(found, truths, p)
    assert [str(w.message).split("'")[1] for w in warned] == list(absent)
    rest = {name: n for name, n in zip("abcd", (7, 1, 9, 5), strict=True) if name not in absent}
    assert dict(zip(scores.sequences, scores.n_frames.tolist(), strict=True)) == rest
    alone = score({n: found[n] for n in rest}, {n: truths[n] for n in rest}, p)
    for m in metrics.METRICS:
        assert scores.values[m].tolist() == alone.values[m].tolist()


def test_without_any_target_there_is_nothing_to_score():
    found, truths = scene((4, 3))
    for truth in truths.values():
        truth[0][:, 2:] = 0
    p = Protocol("drop", invalid_truth="drop")
    with pytest.raises(ResultFileError, match="no sequence has a frame to score, 'a' and 1 more"):
        score(found, truths, p)
    with pytest.raises(ResultFileError, match="no sequence to score"):
        score({}, {}, p)


@pytest.mark.filterwarnings("ignore:sequence")
@pytest.mark.parametrize("rule", ["one", "surplus", "clip", "pad"])
@pytest.mark.parametrize("empty", ["a", "b", "c", "bc"])
@pytest.mark.parametrize("protocol", [PROTOCOLS["gtot"], PROTOCOLS["lasher"]])
def test_a_sequence_without_rows_is_left_out(rule, empty, protocol):
    lengths = [0 if name in empty else 6 for name in "abc"]
    found, truths = scene(lengths)
    rest = [name for name in "abc" if name not in empty]
    p = replace(protocol, lengths=rule)
    with pytest.warns(UserWarning, match=f"'{empty[0]}' has no frame to score"):
        scores = score(found, truths, p)
    alone = score({n: found[n] for n in rest}, {n: truths[n] for n in rest}, p)
    assert scores.sequences == alone.sequences == tuple(rest)
    assert [scores.mean(m) for m in metrics.METRICS] == [alone.mean(m) for m in metrics.METRICS]


def test_means_of_sequences_with_and_without_frames():
    lengths = np.array([0, 2, 0, 0, 3, 0])
    values = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40], [8, 80]])
    nothing = np.zeros(5)
    frames = Frames(tuple("abcdef"), lengths, nothing, nothing, nothing, np.ones(5, bool))
    nan = np.nan
    expected = [[nan] * 2, [1.5, 15], [nan] * 2, [nan] * 2, [5, 50], [nan] * 2]
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(frames.mean_by_sequence(values), expected)
        np.testing.assert_array_equal(
            frames.mean_by_sequence(values[:, 1]), [nan, 15, nan, nan, 50, nan]
        )
    scores = score_frames(frames, Protocol("p"))
    assert scores.sequences == ("b", "e")
    assert scores.n_frames.tolist() == [2, 3]


# --- marked frames --------------------------------------------------------------------------------


def shares(frames, protocol, rows):
    """PR, NPR and SR over some of the measured frames, one frame after the other."""
    thresholds = np.linspace(0, 1, protocol.success_thresholds)
    per_frame = [
        (
            frames.error[i] <= protocol.precision_threshold,
            frames.norm_error[i] <= protocol.norm_precision_threshold,
            np.mean([frames.overlap[i] > t for t in thresholds]),
        )
        for i in rows
    ]
    return [float(np.mean(column)) for column in zip(*per_frame, strict=True)]


def test_acts_marks_rows_of_the_ground_truth_whichever_of_them_are_scored():
    found, truths = scene((8, 6, 5, 9))
    truths["a"][0][2:4, 2:] = 0
    truths["c"][0][:, 2:] = 0
    found["d"] = found["d"][:8]
    acts = np.random.default_rng(3).random(28) < 0.5
    acts[8:14] = False  # never in "b"
    p = Protocol("p", precision_threshold=2, invalid_truth="drop")
    with pytest.warns(UserWarning, match="sequence") as warned:
        frames = measure(found, truths, p)
    assert len(warned) == 2  # "d" lacks a row, "c" has no target
    scored = [*range(2), *range(4, 8), *range(8, 14), *range(19, 27)]
    assert np.flatnonzero(frames.scored).tolist() == scored
    scores = score_frames(frames, p, acts)
    assert scores.sequences == ("a", "d")
    for k, span in enumerate((range(8), range(19, 28))):
        rows = [i for i, row in enumerate(scored) if row in span and acts[row]]
        assert scores.n_frames[k] == len(rows) > 1
        np.testing.assert_allclose(
            [scores.values[m][k] for m in metrics.METRICS], shares(frames, p, rows), atol=1e-12
        )


def test_acts_of_another_length_or_of_no_frame():
    found, truths = scene((4, 3))
    frames = measure(found, truths, Protocol("p"))
    for n in (1, 6, 8):
        with pytest.raises(ValueError, match=rf"shape \({n},\): expected \(7,\)"):
            score_frames(frames, Protocol("p"), np.ones(n, bool))
    nothing = score_frames(frames, Protocol("p"), np.zeros(7, bool))
    assert nothing.sequences == ()
    with pytest.raises(ValueError, match="PR has no mean: there are no scored sequences"):
        nothing.mean("PR")
