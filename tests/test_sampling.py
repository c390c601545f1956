"""Which frames make a training pair."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from gmmt.data.sampling import draw_pair
from gmmt.errors import SettingError


def ostrack(interval: int = 200) -> SimpleNamespace:
    return SimpleNamespace(draw="ostrack", interval=interval, negative=0.5)  # which it never draws


def siamban(interval: int = 100, negative: float = 0.2) -> SimpleNamespace:
    return SimpleNamespace(draw="siamban", interval=interval, negative=negative)


def seen(*frames: int, of: int) -> np.ndarray:
    visible = np.zeros(of, bool)
    visible[list(frames)] = True
    return visible


def draw(n: int, visible: list[np.ndarray], data: SimpleNamespace, seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    return [draw_pair(rng, visible, data.draw, data) for _ in range(n)]


def test_ostracks_pairs_are_the_released_ones(shared):
    file = json.loads((shared / "reference" / "tracking_ops.json").read_text())
    case = file["C_training"]["sampler_causal"]
    visible = np.ones(case["length"], bool)
    visible[case["invisible"]] = False
    pairs = draw(case["draws"], [visible], ostrack(case["max_gap"]))
    support = {}
    for pair in pairs:
        support.setdefault(str(pair.template_frame), set()).add(pair.search_frame)
    assert {k: sorted(v) for k, v in support.items()} == case["support"]
    frequency = Counter(str(pair.template_frame) for pair in pairs)
    for frame, share in case["template_freq"].items():
        assert frequency[frame] / len(pairs) == pytest.approx(share, abs=0.005)


def test_ostracks_search_frame_is_at_most_199_later_and_each_as_likely():
    pairs = draw(20000, [seen(0, *range(1, 400), of=1000)], ostrack())
    steps = Counter(p.search_frame - p.template_frame for p in pairs if p.template_frame < 200)
    assert set(steps) == set(range(1, 200))
    assert max(steps.values()) / min(steps.values()) < 3
    assert all(not p.negative and p.search_sequence == p.template_sequence for p in pairs)


def test_ostracks_interval_widens_until_a_frame_is_found():
    only = seen(0, 300, 600, 900, 1200, of=1500)
    pairs = draw(200, [only], ostrack())
    frames = {(p.template_frame, p.search_frame) for p in pairs}
    # The interval starts with 200 and grows by 5, to 305 at the 22nd try at least.
    assert frames == {(0, 300), (300, 600), (600, 900), (900, 1200)}


def test_ostracks_last_frame_is_never_a_template():
    pairs = draw(500, [seen(*range(25), of=25)], ostrack())
    assert {p.template_frame for p in pairs} == set(range(24))
    assert max(p.search_frame for p in pairs) == 24


def test_ostrack_takes_each_sequence_that_is_long_and_visible_enough_alike():
    visible = [
        np.ones(19, bool),
        seen(3, 7, 11, 15, of=40),  # 4 visible ones
        np.ones(20, bool),
        seen(3, 7, 11, 15, 19, of=40),
        np.ones(900, bool),
    ]
    times = Counter(p.template_sequence for p in draw(3000, visible, ostrack()))
    assert set(times) == {2, 3, 4}
    assert all(900 < n < 1100 for n in times.values())


@pytest.mark.parametrize(
    ("visible", "data", "words"),
    [
        (
            [np.ones(19, bool)],
            ostrack(),
            "none of 1 training sequences can be used: expected at least 20",
        ),
        (
            [np.zeros(30, bool)] * 2,
            siamban(),
            "none of 2 training sequences can be used: expected at least 1",
        ),
        ([], ostrack(), "none of 0 training sequences"),
    ],
)
def test_what_cannot_be_drawn(visible, data, words):
    with pytest.raises(SettingError, match=words):
        draw_pair(np.random.default_rng(0), visible, data.draw, data)


def test_siambans_frames_are_near_each_other_in_the_list_of_visible_ones():
    frames = list(range(0, 60, 2))  # every second frame
    pairs = draw(20000, [seen(*frames, of=60)], siamban(interval=3, negative=0.0))
    for template in frames:
        place = template // 2
        expected = {2 * k for k in range(place - 3, place + 4) if 0 <= k < len(frames)}
        found = Counter(p.search_frame for p in pairs if p.template_frame == template)
        assert set(found) == expected
        assert max(found.values()) / min(found.values()) < 2  # each as likely
    assert not any(p.negative for p in pairs)


def test_siambans_negative_pairs():
    visible = [np.ones(10, bool), np.zeros(9, bool), np.ones(5, bool), np.ones(40, bool)]
    pairs = draw(9000, visible, siamban(negative=0.3))
    negative = [p for p in pairs if p.negative]
    # In one of three pairs of random sequences both are the same: these are not negative.
    assert len(negative) / len(pairs) == pytest.approx(0.3 * 2 / 3, abs=0.02)
    for p in pairs:
        assert p.negative == (p.template_sequence != p.search_sequence)
        assert visible[p.template_sequence][p.template_frame]
        assert visible[p.search_sequence][p.search_frame]
    assert {(p.template_sequence, p.search_sequence) for p in negative} == {
        (a, b) for a in (0, 2, 3) for b in (0, 2, 3) if a != b
    }
    assert {p.search_frame for p in negative if p.search_sequence == 3} == set(range(40))


@pytest.mark.parametrize("data", [ostrack(), siamban()])
def test_the_same_generator_draws_the_same_pairs(data):
    visible = [np.ones(50, bool)] * 4
    assert draw(20, visible, data) == draw(20, visible, data)
    assert draw(20, visible, data) != draw(20, visible, data, seed=1)
