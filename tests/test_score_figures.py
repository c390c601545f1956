"""Figures of scores: what stands in them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gmmt import curves, results, score_figures
from gmmt.data.benchmarks import GroundTruth
from gmmt.errors import SettingError
from gmmt.metrics import PROTOCOLS, measure, score_frames


@pytest.fixture
def scored(request):
    """(frames, scores, rows, truth) of trackers with names that matplotlib takes amiss."""
    names = getattr(request, "param", ["_mine", "a$x$b", "n" * 80])
    rng = np.random.default_rng(0)
    truth = {f"s{k}": (rng.uniform(5, 60, (20, 4)),) * 2 for k in range(6)}
    protocol = PROTOCOLS["gtot"]
    measured = {}
    for i, name in enumerate(names):
        boxes = {s: t[0] + rng.normal(scale=1 + i, size=(20, 4)) for s, t in truth.items()}
        measured[name] = measure(boxes, truth, protocol)
    scores = {name: score_frames(frames, protocol) for name, frames in measured.items()}
    toy = GroundTruth("toy", truth, {"OCC": ("s0", "s1"), "FM": ("s2", "s3", "s4")})
    return measured, scores, results.comparison(scores, toy, True, 100)


def drawn(scored, monkeypatch, tmp_path, resamples=100):
    """The figures of `draw` by name, not closed."""
    figures = {}
    monkeypatch.setattr(
        score_figures, "_save", lambda f, path: figures.setdefault(path.name, f) and [path]
    )
    measured, scores, rows = scored
    score_figures.draw(measured, scores, PROTOCOLS["gtot"], rows, tmp_path, resamples)
    for figure in figures.values():
        figure.canvas.draw()
    return figures


@pytest.mark.parametrize(
    "scored", [["_mine", "a$x$b", "n" * 80], list("abcdefghi_")], indirect=True
)
def test_every_tracker_stands_in_every_legend_within_the_picture(scored, monkeypatch, tmp_path):
    for name, figure in drawn(scored, monkeypatch, tmp_path).items():
        legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
        assert len(legends) == 1
        texts = [text.get_text() for text in legends[0].get_texts()]
        assert len(texts) == len(scored[1]), name
        box = legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        plt.close(figure)


def test_no_two_of_many_trackers_look_alike():
    n, looks = score_figures.MOST, score_figures
    colors = [looks.COLORS[i % len(looks.COLORS)] for i in range(n)]
    dots = [looks.MARKERS[i % len(looks.MARKERS)] for i in range(n)]
    lines = [looks.LINES[i // len(looks.COLORS)] for i in range(n)]
    assert len(set(zip(colors, dots, strict=True))) == n
    assert len(set(zip(colors, lines, strict=True))) == n
    with pytest.raises(SettingError, match="25 trackers in one figure: expected 24"):
        score_figures.draw({}, dict.fromkeys(range(n + 1)), PROTOCOLS["gtot"], [], None, 0)


def test_a_title_speaks_of_intervals_only_where_they_are_drawn(scored, monkeypatch, tmp_path):
    for resamples in (0, 100):
        for name, figure in drawn(scored, monkeypatch, tmp_path, resamples).items():
            title = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
            assert ("interval" in title) == (resamples > 0), name
            plt.close(figure)


def test_scores_are_read_off_the_curves(scored):
    measured, scores, _ = scored
    protocol = PROTOCOLS["gtot"]
    for name, frames in measured.items():
        weights = scores[name].weights()
        for metric in ("PR", "NPR", "SR"):
            x, shares = curves.curve(frames, metric, protocol)
            mean = np.average(shares, 0, weights)
            if metric == "SR":
                value = np.trapezoid(mean, x)
            else:
                end = {"PR": protocol.precision_threshold, "NPR": 0.2}[metric]
                value = mean[np.isclose(x, end)][0]
            assert value == pytest.approx(scores[name].mean(metric))


def test_a_band_is_that_of_the_scores_own_interval(scored):
    measured, scores, _ = scored
    frames, own = measured["_mine"], scores["_mine"]
    x, shares = curves.curve(frames, "PR", PROTOCOLS["gtot"])
    found = curves.band(shares, own.weights(), resamples=500, seed=3)
    expected = results.estimate(own, "PR", resamples=500, seed=3)
    at = np.flatnonzero(np.isclose(x, 5))[0]
    values = (found.mean[at], found.low[at], found.high[at])
    assert values == pytest.approx((expected.value, expected.low, expected.high))
