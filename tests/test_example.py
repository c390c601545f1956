"""The pair to look at."""

import numpy as np

from gmmt.data.toys import example_pair


def test_without_real_images_a_rendered_pair_stands_in_and_says_so(no_downloads):
    rgb, tir, credit = example_pair()
    assert rgb.shape == (*tir.shape, 3)
    assert min(rgb.min(), tir.min()) >= 0
    assert max(rgb.max(), tir.max()) <= 1
    assert "rendered" in credit
    np.testing.assert_array_equal(rgb, example_pair()[0])
    assert (rgb.min(-1) == 1).mean() > 0.1 > (tir == 1).mean()  # a lamp blinds the camera only


def test_a_fetched_pair_is_used(raw_results):
    raw_results("roadscene")
    rgb, tir, credit = example_pair()
    assert "RoadScene" in credit
    assert rgb.shape[:2] == tir.shape
