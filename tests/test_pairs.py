"""The pair to look at and its hand-made features."""

import numpy as np
import pytest
import torch

from gmmt.data.pairs import example_pair, feature_map


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


def test_features_are_standardised_and_see_the_direction_of_edges(no_downloads):
    rgb, tir, _ = example_pair()
    f = feature_map(rgb)
    assert f.shape == (1, 8, 32, 32)
    assert f.mean().item() == pytest.approx(0, abs=1e-4)
    assert f.std().item() == pytest.approx(1, abs=1e-3)
    ramp = np.tile(np.linspace(0, 1, 256), (256, 1))  # brighter to the right: direction 0
    assert feature_map(ramp)[0].mean((1, 2)).argmax() == 0
    assert feature_map(ramp.T)[0].mean((1, 2)).argmax() == 2
    assert torch.isfinite(feature_map(tir)).all()
