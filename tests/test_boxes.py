"""Files of boxes: what is read, and what is refused with which words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.data.boxes import are_corners, read_box_file, read_boxes
from gmmt.errors import ResultFileError

ROWS = np.array([[1, 2, 3, 4], [5.5, 6, 7, 8]])


@pytest.fixture
def read(tmp_path):
    """A function text or bytes -> what the file holds."""

    def from_text(content):
        path = tmp_path / "dog11.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_box_file(path)

    return from_text


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [",", " ", "\t", ", ", "  ", ",\t", ";", "; ", " , "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("last", ["", "end", "end and blank lines"])
def test_delimiters_and_line_ends(read, between, end, last):
    text = end.join(between.join(str(v) for v in row) for row in ROWS)
    file = read(text + {"": "", "end": end}.get(last, 3 * end))
    np.testing.assert_array_equal(file.boxes, ROWS)
    assert file.confidence is None


FORMS = {
    "byte order mark": "\ufeff1,2,3,4\n5.5,6,7,8\n",
    "blank lines": "\n1 2 3 4\n\n  \n5.5 6 7 8\n\n",
    "square brackets": "[1, 2, 3, 4]\n[5.5, 6, 7, 8]\n",
    "a list of lists": "[[1, 2, 3, 4],\n [5.5, 6, 7, 8]]\n",
    "quotes": '"1","2","3","4"\n"5.5","6","7","8"\n',
    "braces": "{1 2 3 4}\n{5.5 6 7 8}\n",
    "the end of a DOS file": "1 2 3 4\n5.5 6 7 8\n\x1a",
    "round brackets": "(1 2 3 4)\n(5.5 6 7 8)\n",
    "a comma at the end": "1,2,3,4,\n5.5,6,7,8,\n",
    "scientific": "1e0 2E0 3.0e+00 4\n5.5e+00 6 7 8\n",
    "decimal commas, blanks": "1,0 2,0 3,0 4,0\n5,5 6,0 7,0 8,0\n",
    "decimal commas, semicolons": "1,00;2,00;3,00;4,00\n5,50;6,00;7,00;8,00\n",
    "decimal commas, tabs": "1,0\t2,0\t3,0\t4,0\n5,5\t6,0\t7,0\t8,0\n",
    "decimal commas after commas": "1,0, 2,0, 3,0, 4,0\n5,5, 6,0, 7,0, 8,0\n",
    "decimal commas, some": "1 2 3 4\n5,5 6 7 8\n",
    "comma and blank mixed": "1,2 3,4\n5.5,6 7,8\n",
}


@pytest.mark.parametrize("case", FORMS)
def test_forms_of_one_file(read, case):
    np.testing.assert_array_equal(read(FORMS[case]).boxes, ROWS)


def test_what_powershell_writes_is_read(read):
    np.testing.assert_array_equal(read("1,2,3,4\r\n5.5,6,7,8\r\n".encode("utf-16")).boxes, ROWS)


def test_a_fifth_column_is_a_confidence(read):
    file = read("1,2,3,4,0.9\n5.5,6,7,8,nan\n")
    np.testing.assert_array_equal(file.boxes, ROWS)
    np.testing.assert_array_equal(file.confidence, [0.9, np.nan])
    file = read("1,2,3,4\n5.5,6,7,8,0.7\n")  # a tracker has none in the box it was given
    np.testing.assert_array_equal(file.boxes, ROWS)
    np.testing.assert_array_equal(file.confidence, [np.nan, 0.7])
    assert read("1,2,3,4,-inf\n5.5,6,7,8,0.7\n").confidence[0] == -np.inf
    file = read("5 7 25 7 25 17 5 17 0.9\n")
    np.testing.assert_array_equal(file.boxes, [[5, 7, 20, 10]])
    assert file.confidence == [0.9]
    file = read("1,0 2,0 3,0 4,0 0,9\n5,5 6,0 7,0 8,0 0,8\n")
    np.testing.assert_array_equal(file.boxes, ROWS)
    np.testing.assert_array_equal(file.confidence, [0.9, 0.8])


def test_a_row_with_a_nan_is_no_box(read):
    boxes = read("1,2,3,4\nnan,nan,nan,nan\n1,NaN,3,4\n").boxes
    assert np.isnan(boxes).all(1).tolist() == [False, True, True]
    boxes = read("1,2,3,4\n-nan(ind),-nan(ind),-nan(ind),-nan(ind)\n").boxes
    assert np.isnan(boxes).all(1).tolist() == [False, True]


def test_blank_lines_between_rows_are_counted(read):
    def counted(text):
        file = read(text)
        return file.blank, file.blank_after

    assert counted("1 2 3 4\n5 6 7 8\n5 6 7 8\n") == (0, 0)
    assert counted("1 2 3 4\n5 6 7 8\n5 6 7 8") == (0, 0)
    assert counted("\n1 2 3 4\n\n\n5 6 7 8\n5 6 7 8\n\n\n") == (3, 2)
    assert counted("1 2 3 4\n\n5 6 7 8\n\n5 6 7 8\n") == (0, 0)  # alike: no frames


def test_eight_columns_become_the_upright_box_rounded(read):
    boxes = read("144.0 53.0 168.4 53.0 168.4 98.5 144.0 98.5\n10 20 10 5 30 5 30 20\n").boxes
    np.testing.assert_array_equal(boxes, [[144, 53, 24, 46], [10, 5, 20, 15]])
    by_columns = read("5 7 5 17 25 7 25 17\n").boxes
    np.testing.assert_array_equal(by_columns, [[5, 7, 20, 10]])
    turned, row_by_row = "10 0 20 10 10 20 0 10\n", "5 7 25 7 5 17 25 17\n"
    pairs = "144,53 168,53 168,98 144,98\n"
    for text, box in (
        (turned, [0, 0, 20, 20]),
        (row_by_row, [5, 7, 20, 10]),
        (pairs, [144, 53, 24, 45]),
    ):
        np.testing.assert_array_equal(read(text).boxes, [box])
    boxes = read("0 0 0 0 0 0 0 0\n" + turned + "nan 0 0 0 0 0 0 0\n").boxes
    np.testing.assert_array_equal(boxes[:2], [[0, 0, 0, 0], [0, 0, 20, 20]])
    assert np.isnan(boxes[2]).all()


@settings(max_examples=100, deadline=None)
@given(
    center=st.tuples(st.floats(50, 900), st.floats(50, 700)),
    size=st.tuples(st.floats(1, 300), st.floats(1, 300)),
    angle=st.floats(0, 6.3),
    digits=st.sampled_from([0, 2]),
    start=st.integers(0, 3),
    way=st.sampled_from([1, -1]),
)
def test_the_corners_of_any_turned_box_are_corners(center, size, angle, digits, start, way):
    unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.round((unit * size) @ turn.T + center, digits)
    points = np.roll(points, start, 0)[::way]
    assert are_corners(points[None]).all()


def test_hardly_any_two_boxes_are_corners():
    """Two boxes (x, y, w, h) of targets of a tenth of a frame of 640 x 480, near one another."""
    rng = np.random.default_rng(0)
    one = np.concatenate([rng.uniform(0, [576, 432], (5000, 2)), rng.uniform(8, 64, (5000, 2))], 1)
    two = one + rng.normal(scale=1.5, size=one.shape)
    assert are_corners(np.concatenate([one, two], 1).reshape(-1, 4, 2)).mean() < 0.01
    assert are_corners(np.concatenate([one, one], 1).reshape(-1, 4, 2)).mean() < 0.01


# --- what is refused ------------------------------------------------------------------------------

BAD = {
    "empty file": ("", "the file is empty"),
    "blank lines only": ("\n\n  \n", "the file is empty"),
    "short row": ("1,2,3,4\n1,2,3\n", r"line 2: '1,2,3' has 3 numbers.*as in line 1 \(4 numbers\)"),
    "long row": ("1,2,3,4\n1,2,3,4\n1,2,3,4,5\n", "line 3: .* has 5 numbers"),
    "four and eight": ("1,2,3,4\n1,2,3,4,5,6,7,8\n", "line 2: .* has 8 numbers"),
    "six columns": ("1,2,3,4,5,6\n", "line 1: .* has 6 numbers"),
    "letters": ("1,2,3,4\n1,2,three,4\n", "line 2: .*could not convert string to float: 'three'"),
    "a header": ("x,y,w,h\n1,2,3,4\n", "line 1: 'x,y,w,h' is a header or a comment.*Remove that"),
    "a comment": ("# tracker\n1,2,3,4\n", "line 1: '# tracker' is a header or a comment"),
    "infinity": ("1,2,3,4\n1,2,inf,4\n", "line 2: '1,2,inf,4' is no box.*Write 0 0 0 0"),
    "no numbers at all": ("x:1 y:2\nx:2 y:3\n", "line 1: .* no box, nor is the line below"),
    "a number without sense": ("1,2,3,4\n1e300,1,1,1\n", "line 2: .* no box in pixels"),
    "columns are numbered": ("0,1,2,3\n5,6,7,8\n", "line 1: .* numbers columns.*Remove that"),
    "frame numbers from 7 on": (
        "".join(f"{k},5,5,9,9\n" for k in range(7, 30)),
        r"counts frames \(7, 8, \.\.\.\)",
    ),
    "one row of corners is none": (
        "209,155 309,155 309,218 209,218\n10,10 60,12 200,90 12,30\n"
        + "209,155 309,155 309,218 209,218\n",
        "line 2: .*8 numbers that are no corners",
    ),
    "an empty field": ("1,2,3,4,0.9\n1,,3,4,0.9\n", "line 2: .* has an empty field"),
    "an empty field, semicolons": ("1; ;3;4;5\n", "line 1: .* has an empty field"),
    "frame numbers": ("1,7,7,9,9\n2,7,7,9,9\n3,7,8,9,9\n", "counts frames .*Remove that column"),
    "two boxes": (
        "144,53,24,45,144,53,24,45\n",
        "line 1: .*no corners of a box.*They look like two boxes .*Keep the four columns of one",
    ),
    "two boxes that differ": (
        "144,53,24,45,146,54,25,44\n145,53,24,45,147,54,25,44\n",
        "line 1: .*They look like two boxes",
    ),
    "decimal commas between commas": (
        "144,25,53,50,24,00,45,10\n",
        "line 1: .*no corners of a box.*decimal commas.*Write x, y, w, h with decimal points",
    ),
    "cut off in the middle": ("1,2,3,4\n1,2", "line 2: '1,2' has 2 numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_file_and_line(read, case):
    text, message = BAD[case]
    with pytest.raises(ResultFileError, match=message) as error:
        read(text)
    assert "dog11.txt" in str(error.value)
    assert "expected" in str(error.value)


def test_a_binary_file_is_refused(read):
    with pytest.raises(ResultFileError, match=r"dog11\.txt: not a text file"):
        read(b"\x89PNG\r\n\x1a\n\xff\xfe")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"s\.txt: there is no such file; expected"):
        read_boxes(tmp_path / "s.txt")
