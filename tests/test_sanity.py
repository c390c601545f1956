"""What is checked before results are scored: form of the boxes, order of frames, first boxes."""

import warnings

import numpy as np
import pytest

from gmmt import sanity
from gmmt.data.benchmarks import GroundTruth, ground_truth
from gmmt.data.boxes import write_results
from gmmt.errors import ResultFileError
from gmmt.sanity import check_first_boxes, check_results, read_results

N = 30


@pytest.fixture
def videos():
    """Boxes of eight videos, found with a small error, and their truth: targets that move."""
    rng = np.random.default_rng(0)
    boxes, truths = {}, {}
    for k in range(8):
        start, size = rng.uniform(140, 300, 2), rng.uniform(20, 60, 2)
        speed = rng.uniform(2, 6, 2) * rng.choice([-1, 1], 2)
        corner = start + np.arange(N)[:, None] * speed
        truth = np.concatenate([corner, np.tile(size, (N, 1))], 1)
        truths[f"s{k}"] = (truth, truth + 1)
        boxes[f"s{k}"] = truth + rng.normal(scale=1, size=truth.shape)
    return boxes, truths


def corners(b):
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)


def centres(b):
    return np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1)


FORMS = {
    "two corners x1, y1, x2, y2": corners,
    "centre and size cx, cy, w, h": centres,
    "y, x, h, w": lambda b: b[:, [1, 0, 3, 2]],
    "two corners y1, x1, y2, x2": lambda b: corners(b)[:, [1, 0, 3, 2]],
    "x1, x2, y1, y2": lambda b: corners(b)[:, [0, 2, 1, 3]],
    "boxes in shares of the frame's width": lambda b: b / [640, 480, 640, 480],
    "boxes in frames of another size": lambda b: b / 2,
    "boxes in frames of another size ": lambda b: b * [0.4, 0.53, 0.4, 0.53],
    r"centre and size cx, cy, w, h, and in shares of": lambda b: centres(b) / [640, 480, 640, 480],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", ["as the rest", "given", "zero", "nan"])
def test_another_form_is_named_whatever_the_first_row_is(videos, form, first):
    boxes, truths = videos
    changed = {name: FORMS[form](rows) for name, rows in boxes.items()}
    for name, rows in changed.items():
        if first != "as the rest":
            rows[0] = {"given": truths[name][0][0], "zero": 0, "nan": np.nan}[first]
    with pytest.raises(ResultFileError, match=f"8 of 8 files .* look like {form.strip()}"):
        check_results(changed, truths)
    if "and in" not in form:
        with pytest.warns(UserWarning, match=rf"1 of 8 files \(s3\) look like {form.strip()}"):
            check_results(boxes | {"s3": changed["s3"]}, truths)


@pytest.mark.parametrize("form", list(FORMS)[:5])
def test_a_lost_tracker_in_another_form_is_known_by_its_first_row(videos, form):
    boxes, truths = videos
    lost = {}
    for name, rows in boxes.items():
        lost[name] = FORMS[form](rows)
        lost[name][1:] = [1, 1, 5, 5]
    with pytest.raises(ResultFileError, match=f"8 of 8 files .* begin far .* look like {form}"):
        check_results(lost, truths)


def test_boxes_of_other_videos_are_recognised(videos):
    boxes, truths = videos
    swapped = boxes | {"s1": boxes["s2"], "s2": boxes["s1"]}
    with pytest.warns(UserWarning, match=r"2 of 8 files \(s1, s2\).*boxes of other sequences"):
        check_results(swapped, truths)
    turned = dict(zip(boxes, [*list(boxes.values())[1:], boxes["s0"]], strict=True))
    with pytest.raises(
        ResultFileError, match=r"[78] of 8 files .*other sequences.*Are these results"
    ):
        check_results(turned, truths)
    with pytest.raises(ResultFileError, match="nothing that is known here"):
        check_first_boxes({name: rows[:1] + 4000 for name, rows in boxes.items()}, truths)


def test_a_row_without_a_box_is_said_and_not_taken_for_another_form(videos):
    boxes, truths = videos
    for nothing in (0, np.nan):
        lost = {name: np.full_like(rows, nothing) for name, rows in boxes.items()}
        with pytest.warns(UserWarning, match="8 of 8 files .* begin with a row that is no box"):
            check_results(lost, truths)


def by_text(n, first):
    """Row k of what a tracker writes that read frames sorted by names without leading zeros."""
    return sorted(range(n), key=lambda i: str(i + first))


@pytest.mark.parametrize("first", [0, 1, 85, 95, 980])
@pytest.mark.parametrize("rows_more", [-1, 0, 1])
def test_frames_sorted_as_text_are_recognised(videos, first, rows_more):
    boxes, truths = videos
    order = by_text(N, first)
    mixed = {name: np.resize(rows[order], (N + rows_more, 4)) for name, rows in boxes.items()}
    message = r"[678] of 8 files .* read sorted by name as text .*Run the tracker on them"
    with pytest.raises(ResultFileError, match=message):
        check_results(mixed, truths)
    if rows_more == 0:
        with pytest.warns(UserWarning, match=r"1 of 8 files \(s5\) look like answers to frames"):
            check_results(boxes | {"s5": mixed["s5"]}, truths)


def test_a_video_in_reverse_is_recognised(videos):
    boxes, truths = videos
    with pytest.raises(ResultFileError, match="answers to frames that were read in reverse"):
        check_results({name: rows[::-1] for name, rows in boxes.items()}, truths)


def test_a_row_too_much_or_too_few_at_the_beginning_is_recognised(videos):
    boxes, truths = videos
    for change in (
        lambda r: r[1:],
        lambda r: np.concatenate([r[:1], r]),
        lambda r: r[[0, 0, 0, *range(N)]],
    ):
        changed = {name: change(rows) for name, rows in boxes.items()}
        with pytest.raises(
            ResultFileError, match=r"8 of 8 files .* a row too much, or too few, at"
        ):
            check_results(changed, truths)
        with pytest.warns(UserWarning, match=r"1 of 8 files \(s2\) look like files with a row"):
            check_results(boxes | {"s2": changed["s2"]}, truths)


def test_nothing_is_said_of_boxes_that_fit_or_of_bad_trackers(videos):
    boxes, truths = videos
    rng = np.random.default_rng(1)
    moving = (np.arange(N) > 0)[:, None]
    kinds = {
        "good": lambda r: r,
        "a row less": lambda r: r[:-1],
        "a row more": lambda r: r[[*range(N), N - 1]],
        "lost at once": lambda r: np.concatenate([r[:1], r[1:] + 500]),
        "lost half way": lambda r: np.concatenate([r[:15], r[15:] - [300, 300, 0, 0]]),
        "still": lambda r: np.tile(r[0], (N, 1)),
        "shaken": lambda r: np.abs(r + rng.normal(scale=12, size=r.shape) * moving),
        "too small": lambda r: r + np.array([0, 0, -5, -5]),
        "growing": lambda r: r * np.linspace(1, 1.5, N)[:, None] ** [0, 0, 1, 1],
        "the whole frame": lambda r: np.concatenate([r[:1], np.tile([0, 0, 640, 480], (N - 1, 1))]),
        "a first box refined": lambda r: np.concatenate([r[:1] + np.array([6, 6, -4, 4]), r[1:]]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for change in kinds.values():
            check_results({name: change(rows) for name, rows in boxes.items()}, truths)


def test_answers_a_frame_late_and_negative_sizes_are_told(videos):
    boxes, truths = videos
    for late in ([0, *range(N - 1)], [*range(1, N), N - 1]):
        changed = {name: rows[late] for name, rows in boxes.items()}
        with pytest.warns(UserWarning, match="8 of 8 files .* answers that are one frame late"):
            check_results(changed, truths)
    changed = {name: rows * [1, 1, 1, -1] for name, rows in boxes.items()}
    with pytest.warns(UserWarning, match="8 of 8 files .* a negative width or height"):
        check_results(changed, truths)


@pytest.mark.parametrize("benchmark", ["gtot", "rgbt210", "rgbt234", "lasher"])
def test_each_benchmarks_own_truth_passes_and_its_corners_do_not(benchmark):
    truth = ground_truth(benchmark)
    boxes = {name: every[0][: min(map(len, every))] for name, every in truth.boxes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_results(boxes, truth.boxes)
    with pytest.raises(ResultFileError, match="two corners x1, y1, x2, y2"):
        check_results({name: corners(rows) for name, rows in boxes.items()}, truth.boxes)


# --- from files -----------------------------------------------------------------------------------


@pytest.fixture
def toy(videos, tmp_path):
    boxes, truths = videos
    write_results(boxes, tmp_path)
    return tmp_path, GroundTruth("toy", truths, {})


def test_files_are_read_and_checked(toy, videos):
    folder, truth = toy
    found = read_results(folder, truth)
    np.testing.assert_allclose(found["s2"], videos[0]["s2"], atol=1e-4)
    write_results({name: corners(rows) for name, rows in videos[0].items()}, folder)
    with pytest.raises(ResultFileError, match="--no-check"):
        read_results(folder, truth)
    np.testing.assert_allclose(
        read_results(folder, truth, check=False)["s2"], corners(videos[0]["s2"]), atol=1e-4
    )


def test_a_blank_line_in_a_frames_place_is_refused(toy):
    folder, truth = toy
    lines = (folder / "s1.txt").read_text().splitlines()

    def refused(*parts):
        (folder / "s1.txt").write_text("\n".join(parts))
        with pytest.raises(ResultFileError, match=r"'s1' has .* blank .* Write 0 0 0 0"):
            read_results(folder, truth)

    refused(*lines[:9], "", *lines[10:])
    refused("", *lines[1:])
    refused(*lines[:20], *[""] * 10, "")
    (folder / "s1.txt").write_text("\n".join([*lines[:9], "", *lines[9:]]))
    with pytest.warns(UserWarning, match=r"1 of 8 files \(s1\) have blank lines between rows"):
        assert len(read_results(folder, truth)["s1"]) == N
    (folder / "s1.txt").write_text("\n\n".join(lines) + "\n\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_results(folder, truth)["s1"]) == N


def test_every_other_meaning_is_undone_by_its_form(videos):
    for form, convert in sanity.FORMS.items():
        np.testing.assert_allclose(convert(FORMS[form](videos[0]["s0"])), videos[0]["s0"])
