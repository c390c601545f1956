"""Head, crops and tracker, against brute force and closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmmt.data.crops import context_side, crop
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet
from gmmt.trackers import heads
from gmmt.trackers.siamese import Siamese


def test_full_size_shapes_are_siambans():
    with torch.device("meta"):
        tracker = Siamese("resnet50", 256, 256, 127, 255).eval()
        z = tracker.encode_template(torch.zeros(1, 4, 127, 127), "base")
        f_rgb, f_tir = tracker.features(torch.zeros(1, 4, 255, 255))
        cls, loc = tracker.head["base"](z, tracker.fused(f_rgb, f_tir))
    assert list(z.shape) == [1, 256, 7, 7]
    assert list(f_rgb.shape) == list(f_tir.shape) == [1, 256, 31, 31]
    assert (list(cls.shape), list(loc.shape)) == ([1, 2, 25, 25], [1, 4, 25, 25])


def test_correlation_equals_a_loop():
    x, k = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 2, 3)
    out = heads.xcorr_depthwise(x, k)
    for b in range(2):
        for c in range(3):
            for i in range(5):
                for j in range(5):
                    assert out[b, c, i, j] == pytest.approx(
                        (x[b, c, i : i + 2, j : j + 3] * k[b, c]).sum().item(), abs=1e-5
                    )


@given(
    st.integers(2, 15),
    st.integers(1, 16),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(2, 40),
    st.floats(2, 40),
)
def test_decoding_the_true_distances_gives_the_box(size, stride, cx, cy, w, h):
    box = torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], dtype=torch.float64)
    p = heads.points(size, stride).double()
    distance = torch.cat([p - box[:, :2, None, None], box[:, 2:, None, None] - p], dim=1)
    inside = (distance > 1e-3).all(1)
    decoded = heads.decode((distance / stride).clamp(min=1e-9).log(), stride)
    for value in decoded.permute(0, 2, 3, 1)[inside]:
        torch.testing.assert_close(value.double(), box[0], rtol=1e-3, atol=1e-3)


def test_labels_are_two_ellipses():
    positive, negative = heads.labels(torch.tensor([[-8.0, -4, 8, 4], [float("nan")] * 4]), 11, 1)
    axis = range(-5, 6)
    for i, y in enumerate(axis):
        for j, x in enumerate(axis):
            assert positive[0, i, j] == ((x / 4) ** 2 + (y / 2) ** 2 < 1)
            assert negative[0, i, j] == ((x / 8) ** 2 + (y / 4) ** 2 > 1)
    assert not positive[1].any()
    assert negative[1].all()


def test_the_loss_is_least_for_the_right_answer_and_counts_each_image_alike():
    boxes = torch.tensor([[-8.0, -8, 8, 8], [-4.0, -10, 12, 6], [float("nan")] * 4])
    positive, negative = heads.labels(boxes, 11, 4)
    p = heads.points(11, 4)
    distance = (
        torch.cat([p - boxes[:, :2, None, None], boxes[:, 2:, None, None] - p], 1)
        .nan_to_num(1)
        .clamp(min=1e-3)
    )
    right = torch.stack([10 * negative, 10 * positive], 1).float()
    terms = heads.track_loss(right, (distance / 4).log(), boxes, 4)
    assert terms["cls"] < 1e-3
    assert terms["loc"] < 1e-3
    wrong = heads.track_loss(-right, (distance / 4).log() + 0.5, boxes, 4)
    assert wrong["cls"] > 5
    assert wrong["loc"] > 0.2
    alone = [
        heads.track_loss(
            right[i : i + 1], (distance[i : i + 1] / 4).log() + 0.3, boxes[i : i + 1], 4
        )
        for i in range(3)
    ]
    together = heads.track_loss(right, (distance / 4).log() + 0.3, boxes, 4)
    for name in ("cls", "loc"):
        assert together[name] == pytest.approx(sum(a[name].item() for a in alone) / 3, abs=1e-6)


def test_a_crop_keeps_pixels_where_they_were():
    frame = torch.arange(4 * 20 * 30, dtype=torch.float32).reshape(1, 4, 20, 30)
    same = crop(frame, torch.tensor([[13.0, 9.0]]), torch.tensor([10.0]), 10)
    torch.testing.assert_close(same, frame[:, :, 4:14, 8:18], atol=1e-2, rtol=1e-4)
    outside = crop(frame, torch.tensor([[-50.0, -50.0]]), torch.tensor([10.0]), 10)
    torch.testing.assert_close(outside, frame.mean((2, 3), keepdim=True).expand(1, 4, 10, 10))
    assert context_side(torch.tensor([[20.0, 20.0]])).item() == pytest.approx(40)
    assert context_side(torch.tensor([[30.0, 10.0]])).item() == pytest.approx((50 * 30) ** 0.5)


# --- the tracker ----------------------------------------------------------------------------------


def test_its_patches_show_what_siambans_show():
    rule = Siamese().crops
    assert (rule.template, rule.search, rule.whole_pixels) == (32, 64, "no")
    wh = torch.tensor([[30.0, 10.0]])
    assert rule.side(wh).item() == pytest.approx((50 * 30) ** 0.5)
    assert rule.scale(wh).item() == pytest.approx((50 * 30) ** 0.5 / 32)
    frame = torch.rand(1, 4, 20, 20) * 255
    outside = rule.cut(frame, torch.tensor([[500.0, 500.0]]), wh, 64)
    torch.testing.assert_close(outside, frame.mean((2, 3), keepdim=True).expand(1, 4, 64, 64))


@torch.no_grad()
def test_both_backbones_get_standardised_grey_levels():
    tracker, seen = Siamese().eval(), {}
    for name, backbone in tracker.backbone.items():
        backbone.register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: given[0][0, :, 0, 0].tolist()})
        )
    levels = torch.tensor([51.0, 115, 147, 243])  # R, G, B, thermal
    tracker.features(levels[None, :, None, None].expand(1, 4, 64, 64))
    assert seen == {"rgb": [-1, 0, 0.5], "tir": [2, 2, 2]}


def test_unknown_modes_backbones_and_rules_are_refused():
    tracker = Siamese()
    with pytest.raises(SettingError, match="Siamese has no mode 'bas': expected one of rgb, tir"):
        tracker.search(torch.zeros(1, 32, 6, 6), torch.zeros(1, 4, 64, 64), "bas")
    with pytest.raises(SettingError, match='"small" or "resnet50", not \'resnet18\''):
        Siamese("resnet18")
    with pytest.raises(SettingError, match='"no", "ostrack" or "siamban", not \'yes\''):
        Siamese(whole_pixels="yes")


def test_each_stage_trains_what_the_supplement_says():
    tracker = Siamese()
    names = {id(module): name for name, module in tracker.named_modules()}
    tracker.fusion = make_fusion("RAW", UNet(32, 3, inner=8, groups=4), 32)
    names[id(tracker.fusion)] = "fusion"
    found = {
        name: (stage.mode, [names[id(module)] for module in stage.learns])
        for name, stage in tracker.stages().items()
    }
    assert found == {
        "1.1 rgb": ("rgb", ["backbone.rgb", "neck.rgb", "head.rgb"]),
        "1.1 tir": ("tir", ["backbone.tir", "neck.tir", "head.tir"]),
        "1.2": ("base", ["head.base", "fuse"]),
        "2": ("stage2", ["head.stage2", "fusion"]),
    }
