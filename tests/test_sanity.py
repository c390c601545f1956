"""What is checked before results are scored: the first boxes, and the order of frames."""

import warnings

import numpy as np
import pytest

from gmmt import sanity
from gmmt.data.benchmarks import GroundTruth, ground_truth
from gmmt.data.boxes import write_results
from gmmt.errors import ResultFileError
from gmmt.sanity import check_first_boxes, check_order, check_results, read_results

N = 30


@pytest.fixture
def videos():
    """Boxes of eight videos, found with a small error, and their truth: targets that move."""
    rng = np.random.default_rng(0)
    boxes, truths = {}, {}
    for k in range(8):
        start, size = rng.uniform(40, 300, 2), rng.uniform(20, 60, 2)
        speed = rng.uniform(2, 6, 2) * rng.choice([-1, 1], 2)
        corner = start + np.arange(N)[:, None] * speed
        truth = np.concatenate([corner, np.tile(size, (N, 1))], 1)
        truths[f"s{k}"] = (truth, truth + 1)
        boxes[f"s{k}"] = truth + rng.normal(scale=1, size=truth.shape)
    return boxes, truths


def corners(b):
    return np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1)


FORMS = {
    "two corners x1, y1, x2, y2": corners,
    "centre and size cx, cy, w, h": lambda b: np.concatenate(
        [b[:, :2] + b[:, 2:] / 2, b[:, 2:]], 1
    ),
    "y, x, h, w": lambda b: b[:, [1, 0, 3, 2]],
    "two corners y1, x1, y2, x2": lambda b: corners(b)[:, [1, 0, 3, 2]],
    "x1, x2, y1, y2": lambda b: corners(b)[:, [0, 2, 1, 3]],
    "shares of the frame's width": lambda b: b / [640, 480, 640, 480],
    "boxes in frames resized by a factor of 0.5": lambda b: b / 2,
    "boxes in frames resized by a factor of 3": lambda b: b * 3,
}


@pytest.mark.parametrize("form", FORMS)
def test_another_form_is_named(videos, form):
    boxes, truths = videos
    changed = {name: FORMS[form](rows) for name, rows in boxes.items()}
    with pytest.raises(ResultFileError, match=f"8 of 8 files .*'s0' .* look like {form}"):
        check_results(changed, truths)
    with pytest.warns(UserWarning, match=rf"1 of 8 files \(s3\).* 1 of 1 look like {form}"):
        check_results(boxes | {"s3": changed["s3"]}, truths)


def test_boxes_of_other_videos_are_recognised(videos):
    boxes, truths = videos
    swapped = boxes | {"s1": boxes["s2"], "s2": boxes["s1"]}
    with pytest.warns(UserWarning, match=r"2 of 8 files \(s1, s2\).*boxes of another sequence"):
        check_results(swapped, truths)
    with pytest.raises(ResultFileError, match="no form of boxes that is known here"):
        check_results({name: rows + 4000 for name, rows in boxes.items()}, truths)


def test_a_row_without_a_box_is_said_and_not_taken_for_another_form(videos):
    boxes, truths = videos
    for nothing in (0, np.nan):
        lost = {name: np.full_like(rows, nothing) for name, rows in boxes.items()}
        with pytest.warns(UserWarning, match="8 of 8 files .* begin with a row that is no box"):
            check_first_boxes(lost, truths)


def by_text(n, first):
    """Row k of what a tracker writes that read frames sorted by names without leading zeros."""
    return sorted(range(n), key=lambda i: str(i + first))


@pytest.mark.parametrize("first", [0, 1])
def test_frames_sorted_as_text_are_recognised(videos, first):
    boxes, truths = videos
    order = by_text(N, first)
    mixed = {name: rows[order] for name, rows in boxes.items()}
    ones = "0, 1" if first == 0 else "1"
    message = rf"8 of 8 files .* had been read sorted by name as text \({ones}, 10"
    with pytest.raises(ResultFileError, match=message):
        check_results(mixed, truths)
    with pytest.warns(
        UserWarning, match=r"1 of 8 files \(s5\) look as if frames had been read sorted"
    ):
        check_order(boxes | {"s5": mixed["s5"]}, truths)


def test_a_video_in_reverse_and_a_missing_first_row_are_recognised(videos):
    boxes, truths = videos
    with pytest.raises(ResultFileError, match="as if frames had been read in reverse"):
        check_results({name: rows[::-1] for name, rows in boxes.items()}, truths)
    with pytest.warns(UserWarning, match="8 of 8 files .* lack a row, and fit better without the"):
        check_order({name: rows[1:] for name, rows in boxes.items()}, truths)


def test_nothing_is_said_of_boxes_that_fit(videos):
    boxes, truths = videos
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_results(boxes, truths)
        check_results({name: rows[:-1] for name, rows in boxes.items()}, truths)
        lost = {name: np.concatenate([rows[:3], rows[3:] + 500]) for name, rows in boxes.items()}
        check_results(lost, truths)  # a bad tracker is not another form


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
    (folder / "s1.txt").write_text("\n".join([*lines[:9], "", *lines[10:]]))
    with pytest.raises(
        ResultFileError, match=f"'s1' has {N - 1} rows and 1 blank .* Write 0 0 0 0"
    ):
        read_results(folder, truth)
    (folder / "s1.txt").write_text("\n\n".join(lines))
    assert len(read_results(folder, truth)["s1"]) == N


def test_every_other_meaning_is_undone_by_its_form(videos):
    for form, convert in sanity.FORMS.items():
        np.testing.assert_allclose(convert(FORMS[form](videos[0]["s0"])), videos[0]["s0"])
