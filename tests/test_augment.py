"""From two frames to a training item. SiamBAN counts pixels by their middles, gmmt by their
borders: its boxes in a frame are half a pixel less than ours.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.data import augment
from gmmt.data.crops import crop
from gmmt.trackers import heads

OSTRACK = {"template_shift": 0, "template_scale": 0, "search_shift": 3, "search_scale": 0.25}
SIAMBAN = {"template_shift": 4, "template_scale": 0.05, "search_shift": 64, "search_scale": 0.18}
STILL = dict.fromkeys(OSTRACK, 0)  # no jitter


@pytest.fixture(scope="module")
def ops(shared):
    return json.loads((shared / "reference" / "tracking_ops.json").read_text())


def image(channels: int, height: int = 60, width: int = 80) -> np.ndarray:
    """The formula's image, uint8 [C, H, W]."""
    c, y, x = np.ogrid[:channels, :height, :width]
    return ((7 * y + 13 * x + 29 * c + (x * y) % 17) % 256).astype(np.uint8)


def levels(patch: torch.Tensor) -> torch.Tensor:
    """Whole grey levels, rounded half up as OpenCV does."""
    return (patch + 0.5).floor()


def ostrack(seed: int, frame, box, search_frame=None, search_box=None, jitter=OSTRACK, sides=None):
    frames_and_boxes = (
        *(frame, np.array(box, float)),
        *(frame if search_frame is None else search_frame, np.array(search_box or box, float)),
    )
    rng, data = np.random.default_rng(seed), SimpleNamespace(**jitter)
    return augment.ostrack_item(rng, *frames_and_boxes, *(sides or (128, 256)), data)


def siamban(seed: int, frame, box, negative=False, jitter=SIAMBAN):
    rng, data = np.random.default_rng(seed), SimpleNamespace(**jitter)
    frames_and_boxes = frame, np.array(box, float), frame, np.array(box, float)
    return augment.siamban_item(rng, *frames_and_boxes, 127, 255, data, negative)


def bright_box(patch: torch.Tensor) -> np.ndarray:
    """Where a bright rectangle is, (x1, y1, x2, y2) around the patch's middle, by its edges."""
    share = (patch[0] - patch[0].min()) / (patch[0].max() - patch[0].min())
    size, found = patch.shape[1], []
    for line in (share.max(0).values, share.max(1).values):
        (at,) = np.nonzero(line.numpy() > 0.5)
        found.append((at[0] - size / 2, at[-1] + 1 - size / 2))
    (x1, x2), (y1, y2) = found
    return np.array([x1, y1, x2, y2])


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    """A frame with a bright rectangle on black."""
    frame = np.zeros((4, 300, 400), np.uint8)
    frame[:, y : y + h, x : x + w] = 200
    return frame


# --- cutting --------------------------------------------------------------------------------------


def test_squares_are_the_released_crops_of_ostrack(ops):
    differ = total = 0
    for case in ops["A_sample_target"]["crops_3ch"] + ops["A_sample_target"]["crops_6ch"]:
        expected = torch.tensor(case["crop"], dtype=torch.float32).permute(2, 0, 1)
        box, size = np.array(case["box"], float), case["out"]
        side = math.ceil(math.sqrt(box[2] * box[3]) * case["factor"])
        x1, y1 = np.round(box[:2] + box[2:] / 2 - side / 2).astype(int)
        found = levels(augment.ostrack_crop(image(len(expected)), x1, y1, side, size))
        assert (found - expected).abs().max() <= 1, case["name"]
        differ, total = differ + int((found != expected).sum()), total + found.numel()
        if "att" in case:
            columns = augment.made_of_frame(x1, side, size, 80)
            rows = augment.made_of_frame(y1, side, size, 60)
            assert np.array_equal(~np.outer(rows, columns), case["att"]), case["name"]
    assert total == 32256
    assert differ / total < 0.065  # OpenCV computes in fixed point


def test_squares_are_the_released_crops_of_siamban(ops):
    differ = total = 0
    for case in ops["D_siamban"]["get_subwindow"]:
        expected = torch.tensor(case["patch_chw"], dtype=torch.float32)
        side = case["original_sz"]
        x1, y1 = np.floor(np.array(case["center_pos"]) - (side + 1) / 2 + 0.5).astype(int)
        found = levels(augment.cut_square(image(3), x1, y1, side, case["model_sz"]))
        assert (found - expected).abs().max() <= 1, (case["name"], case["what"])
        differ, total = differ + int((found != expected).sum()), total + found.numel()
    assert differ / total < 0.07


@settings(deadline=None, max_examples=60)
@given(
    corner=st.tuples(st.integers(-90, 130), st.integers(-90, 130)),
    side=st.integers(1, 150),
    size=st.integers(1, 40),
    fill=st.sampled_from([None, 0.0, 30.0]),
)
def test_a_square_is_what_grid_sampling_gives(corner, side, size, fill):
    """The crops of tracking, made in another way."""
    frame = image(4)
    found = augment.cut_square(frame, *corner, side, size, fill)
    center = torch.tensor([corner]) + side / 2
    expected = crop(
        torch.from_numpy(frame)[None], center, torch.tensor([side]), size, fill, within=True
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected[0], rtol=0, atol=5e-3)


def test_only_the_square_of_a_frame_is_looked_at():
    wide = np.broadcast_to(np.uint8(7), (4, 200_000, 200_000))  # 149 GiB, were it written out
    assert (augment.cut_square(wide, 150_000, 9, 90, 64) == 7).all()
    rectangle = np.array([150_000.3, 9.1, 150_080.2, 77.7])
    torch.testing.assert_close(
        augment.cut_rectangle(wide, rectangle, 31), torch.full((4, 31, 31), 7.0)
    )


def test_a_square_far_larger_than_its_frame_costs_no_more():
    found = augment.cut_square(image(4), -3_000_000, -2_000_000, 10_000_000, 64, 3.0)
    assert (found == 3).all()
    shown = augment.cut_square(image(4), -49_999_960, -49_999_970, 100_000_000, 63, 3.0)
    assert (shown[:, 31, 31] != 3).any()  # one pixel looks at the frame's middle


def test_a_mirrored_frame_can_be_cut():
    frame = image(3)
    found = augment.cut_square(frame[:, :, ::-1], -4, 10, 30, 30, 0.0)
    expected = augment.cut_square(frame, 80 + 4 - 30, 10, 30, 30, 0.0).flip(2)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_a_rectangle_of_whole_pixels_is_cut_out_as_it_is():
    frame = image(3)
    found = augment.cut_rectangle(frame, np.array([10.0, 20, 39, 49]), 30)
    torch.testing.assert_close(
        found, torch.from_numpy(frame[:, 20:50, 10:40]).float(), atol=5e-3, rtol=0
    )


def test_a_rectangle_of_a_slope_is_a_slope():
    x, y = np.meshgrid(np.arange(80), np.arange(60))
    frame = np.stack([x, y, x + y]).astype(np.uint8)
    found = augment.cut_rectangle(frame, np.array([7.25, 11.5, 61.75, 30.0]), 25)
    x, y = torch.linspace(7.25, 61.75, 25), torch.linspace(11.5, 30, 25)
    expected = torch.stack([x.expand(25, 25), y[:, None].expand(25, 25), x + y[:, None]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_beyond_the_frame_a_rectangle_shows_the_fill():
    found = augment.cut_rectangle(image(3), np.array([70.0, 20, 99, 49]), 30, 5.0)
    torch.testing.assert_close(found[:, :, 10:], torch.full((3, 30, 20), 5.0))
    mean = torch.from_numpy(image(3)).double().mean((1, 2)).float()
    nothing = augment.cut_rectangle(image(3), np.array([-50.0, 20, -21, 49]), 30)
    torch.testing.assert_close(nothing, mean[:, None, None].expand(3, 30, 30))


# --- OSTrack --------------------------------------------------------------------------------------


def shares(box: np.ndarray, size: int) -> np.ndarray:
    """A box around the middle of a patch as (x, y, w, h) from its corner, in shares of it."""
    return np.concatenate([box[:2] / size + 0.5, (box[2:] - box[:2]) / size])


def test_boxes_in_ostracks_crops(ops):
    for case in ops["C_training"]["transform_image_to_crop"]:
        box, about = np.array(case["box_in"], float), np.array(case["box_extract"], float)
        size = case["crop_sz"]
        found = shares(augment.box_in_crop(box, about, case["resize_factor"], size), size)
        assert found == pytest.approx(case["out_normalized"], abs=1e-5)
        assert found * size == pytest.approx(case["out"], abs=1e-4)  # 7 digits are stored


def test_ostracks_jitter(ops):
    for case in ops["C_training"]["jittered_box"]:
        box, part = np.array(case["box"]), case["mode"]
        shift, scale = OSTRACK[f"{part}_shift"], OSTRACK[f"{part}_scale"]
        numbers = np.array(case["randn2"]), np.array(case["rand2"])
        about = augment.jittered_box(box, *numbers, shift, scale)
        assert about == pytest.approx(case["out"], abs=1e-5)
        size, factor = {"template": (128, 2), "search": (256, 4)}[part]
        side = math.ceil(math.sqrt(about[2] * about[3]) * factor)
        found = shares(augment.box_in_crop(box, about, size / side, size), size)
        assert found == pytest.approx(case["box_in_crop_normalized"], abs=1e-5)


def test_ostracks_flips(ops):
    """Of a frame, and of a crop: there 1 - x in shares of it, -x around its middle."""
    case = ops["C_training"]["flip"]["pixel_flip"]
    assert list(augment.flipped(case["box"], case["W"])) == case["out"]
    case, size = ops["C_training"]["flip"]["normalized_flip"], 256
    x, y, w, h = case["box"]
    box = (np.array([x, y, x + w, y + h]) - 0.5) * size
    assert shares(augment.mirrored(box), size) == pytest.approx(case["out"], abs=1e-6)


def test_ostracks_brightness(ops):
    case = ops["C_training"]["brightness"]
    found = augment.brightened(torch.tensor(case["pixels"]).float(), case["factor"])
    assert (found / 255).tolist() == pytest.approx(case["out"], rel=1e-5)


@pytest.mark.parametrize("seed", range(24))  # with all four combinations of flips
def test_ostracks_box_is_where_the_target_is(seed):
    frame, other = rectangle(150, 120, 60, 44), rectangle(170, 100, 56, 50)
    template, search, box = ostrack(seed, frame, [150, 120, 60, 44], other, [170, 100, 56, 50])
    assert template.shape == (4, 128, 128)
    assert search.shape == (4, 256, 256)
    assert (template.dtype, search.dtype, box.dtype) == (torch.float32,) * 3
    # A template has no jitter: its target is in the middle, and as large as half of it.
    side = math.ceil(2 * math.sqrt(60 * 44))
    half = np.array([30, 22]) * 128 / side
    # Half a pixel is lost by rounding, one by OSTrack's rule for flipped frames, half a pixel of
    # the crop by its rule for boxes.
    assert bright_box(template) == pytest.approx([*-half, *half], abs=1.5 * 128 / side + 1)
    scale = (box[2] - box[0]).item() / 56  # pixels of the crop for one of the frame
    inside = box.numpy().clip(-128, 128)
    assert bright_box(search) == pytest.approx(inside, abs=1.5 * scale + 1)


def test_ostrack_flips_pairs_and_crops():
    """A frame that is bright at the left; how often each crop is bright at the right."""
    frame = np.zeros((1, 200, 200), np.uint8)
    frame[:, :, :100] = 200
    turned = []
    for seed in range(400):
        template, search, _ = ostrack(seed, frame, [90, 90, 20, 20], jitter=STILL, sides=(8, 16))
        turned.append([bool(c[0, 0, 0] < c[0, 0, -1]) for c in (template, search)])
    (a, b) = np.mean(turned, axis=0)
    assert a == pytest.approx(0.5, abs=0.08)
    assert b == pytest.approx(0.5, abs=0.08)
    # Each crop is flipped by itself, so that all four cases are as frequent.
    assert np.mean([x and y for x, y in turned]) == pytest.approx(0.25, abs=0.07)


def test_ostracks_boxes_are_off_by_what_its_rules_say():
    """At the frame's own scale: by half a pixel (a box's centre in a crop), and one more in a
    flipped frame, which the flip of the crop turns round.
    """
    off = []
    for seed in range(60):
        frame = rectangle(150, 120, 60, 60)
        _, search, box = ostrack(seed, frame, [150, 120, 60, 60], jitter=STILL, sides=(120, 240))
        off.append(bright_box(search) - box.numpy())
    assert {tuple(row) for row in off} == {(x, 0.5, x, 0.5) for x in (0.5, 1.5, -0.5, -1.5)}


def test_ostracks_squares_have_whole_sides_rounded_up():
    frame = rectangle(150, 120, 50, 41)
    _, _, box = ostrack(0, frame, [150, 120, 50, 41], jitter=STILL)
    assert (box[2] - box[0]).item() == pytest.approx(50 * 256 / 182)  # 4 sqrt(50 * 41) is 181.1


def test_ostracks_jitter_in_numbers():
    frame = rectangle(150, 120, 40, 40)
    boxes = [ostrack(s, frame, [150, 120, 40, 40], sides=(16, 32))[2].numpy() for s in range(400)]
    boxes = np.array(boxes)
    # The side of a crop is 4 sqrt(w h) of the jittered box: the logarithm of the target's share of
    # it has the deviation 0.25 / sqrt(2); its centre is moved by up to 3 / 2 / 4 of the crop.
    scale = np.log((boxes[:, 2] - boxes[:, 0]) / 8)
    assert scale.std() == pytest.approx(0.25 / math.sqrt(2), rel=0.15)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 / 32 + 0.5 / 32
    assert np.abs(center).max() == pytest.approx(3 / 8, abs=0.04)
    assert center.std() == pytest.approx(3 / 4 / math.sqrt(12), rel=0.1)


def test_ostracks_brightness_is_one_for_all_channels():
    frame = np.full((4, 100, 100), 200, np.uint8)
    frame[3] = 250
    factors = []
    for seed in range(200):
        template, search, _ = ostrack(seed, frame, [40, 40, 10, 10], sides=(16, 32))
        for patch in (template, search):
            factor = patch[0, 8, 8].item() / 200
            factors.append(factor)
            torch.testing.assert_close(patch[:3], torch.full_like(patch[:3], 200 * factor))
            brighter = min(250 * factor, 255)
            torch.testing.assert_close(patch[3], torch.full_like(patch[3], brighter))
    assert 0.8 <= min(factors) < 0.82
    assert 1.18 < max(factors) <= 1.2
    assert np.mean(factors) == pytest.approx(1, abs=0.02)
    assert len(set(factors)) > 390  # template and search each have their own


@pytest.mark.parametrize(
    "box",
    [
        [20, 20, 0, 10],
        [20, 20, 10, 0],
        [20, 20, -5, 10],
        [20, 20, -5, -10],
        [math.nan] * 4,
        [20, math.inf, 10, 10],
        [300, 20, 10, 10],  # beyond the frame, of 80 x 60
        [-90, 20, 10, 10],
        [30, 500, 10, 10],
    ],
)
def test_what_ostrack_draws_again(box):
    fine = [30, 20, 16, 12]
    assert ostrack(0, image(4), fine) is not None
    assert ostrack(0, image(4), fine, search_box=box) is None
    assert ostrack(0, image(4), box, search_box=fine) is None


def test_ostrack_draws_again_what_no_token_begins_in():
    """A search patch as large as its square, of which only the last columns show the frame: of 15
    none is a token's first, of 17 one is.
    """
    frame, fine = image(4, 300, 400), [150, 120, 64, 64]
    for visible, there in ((17, True), (15, False)):
        box = [visible - 128 - 32, 120, 64, 64]
        item = ostrack(0, frame, fine, search_box=box, jitter=STILL)  # seed 0: no frame is flipped
        assert (item is not None) == there


# --- SiamBAN --------------------------------------------------------------------------------------


def test_siambans_shift_and_scale(ops):
    for case in ops["D_siamban"]["training"]["shift_scale_aug"]:
        numbers = np.array(case["uniform_minus1_1_used_in_order_sx_sy_then_shift_x_y"])
        corners, box = augment.shift_and_scale(
            np.array(case["box_xyxy"]),
            numbers,
            case["shift"],
            case["scale"],
            case["size"],
            case["image_side"],
        )
        assert box == pytest.approx(case["out_box_xyxy"], abs=5e-5)
        if "crop_hwc" in case:
            frame, expected = image(3, 64, 64), torch.tensor(case["crop_hwc"]).permute(2, 0, 1)
            found = levels(augment.cut_rectangle(frame, corners, case["size"], 0.0))
            assert (found - expected).abs().max() <= 6
            assert (found - expected).abs().mean() < 0.3


@pytest.mark.parametrize(
    ("numbers", "size", "patch", "corners"),
    [
        ([0, 0, 1, -1], 41, 64, [23, 0, 63, 40]),  # moved as far as the patch goes
        ([1, 1, 0, 0], 31, 32, [0, 0, 32, 32]),  # scaled to the patch's size
    ],
)
def test_siambans_crops_stay_within_the_patch(numbers, size, patch, corners):
    found, _ = augment.shift_and_scale(np.zeros(4), np.array(numbers), 40, 0.5, size, patch)
    assert list(found) == corners


def test_siambans_box_in_its_patch(ops):
    for case in ops["D_siamban"]["training"]["crop511_box"]:
        *_, x2, y2 = case["anno"]
        wh = np.array([x2, y2], float)
        if len(case["anno"]) == 4:
            wh -= case["anno"][:2]
        side = math.sqrt((wh[0] + wh.sum() / 2) * (wh[1] + wh.sum() / 2))
        assert augment.crop511_box(wh, side, 127) == pytest.approx(case["out_xyxy"], abs=5e-5)


@pytest.mark.parametrize("seed", range(12))
def test_siambans_box_is_where_the_target_is(seed):
    frame = rectangle(150, 120, 60, 44)
    template, search, box = siamban(seed, frame, [150, 120, 60, 44])
    assert template.shape == (4, 127, 127)
    assert search.shape == (4, 255, 255)
    assert (template.dtype, search.dtype, box.dtype) == (torch.float32,) * 3
    side = math.sqrt((60 + 52) * (44 + 52))
    if search[3].unique().numel() > 400:  # blurred
        return
    assert bright_box(search) == pytest.approx(box.numpy(), abs=127 / side + 0.5)
    half = np.array([30, 22]) * 127 / side
    found = bright_box(template)
    assert (found[2:] - found[:2]) / 2 == pytest.approx(half, rel=0.08)  # scaled by up to 1.05
    assert (found[2:] + found[:2]) / 2 == pytest.approx([0, 0], abs=6)  # moved by up to 4


def test_siambans_target_is_in_the_middle_without_jitter():
    """The frame's pixel (x, y) has its middle at x + 0.5: so has the box, whose centre is at the
    crop's middle pixel."""
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    frame = np.stack([x, y, x]).astype(np.uint8)
    _, search, box = siamban(
        1, np.concatenate([frame, frame[:1]]), [79.5, 60.5, 41, 41], jitter=STILL
    )
    assert box.numpy() == pytest.approx(np.array([-1, -1, 1, 1]) * 41 / 2 * 127 / 82, abs=1e-4)
    thermal = search[3]  # without noise of colours
    assert thermal[127, 127].item() == pytest.approx(79.5 + 41 / 2 - 0.5, abs=1e-2)
    step = 82 / 127 * 511 / 510
    assert (thermal[127, 200] - thermal[127, 100]).item() == pytest.approx(100 * step, abs=1e-2)


def test_siambans_jitter_in_numbers():
    frame = rectangle(150, 120, 40, 40)
    boxes = np.array([siamban(s, frame, [150, 120, 40, 40])[2].numpy() for s in range(200)])
    wh, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    plain = 40 * 127 / 80
    assert plain / wh.min() == pytest.approx(1.18, abs=0.01)
    assert plain / wh.max() == pytest.approx(0.82, abs=0.01)
    assert (plain / wh).mean() == pytest.approx(1, abs=0.02)
    assert not np.allclose(wh[:, 0], wh[:, 1])  # both sides by themselves
    assert 62 < np.abs(center * plain / wh).max() <= 64.001
    assert center.mean() == pytest.approx(0, abs=6)


def test_a_negative_pairs_box_has_exchanged_corners():
    frame = image(4, 300, 400)
    _, _, box = siamban(3, frame, [150, 120, 60, 44])
    _, _, exchanged = siamban(3, frame, [150, 120, 60, 44], negative=True)
    assert exchanged.tolist() == box[[2, 3, 0, 1]].tolist()
    on_target, _ = heads.labels(box[None], 25, 8)
    nothing, background = heads.labels(exchanged[None], 25, 8)
    assert not nothing.any()
    assert torch.equal(background, on_target)


def test_siambans_noise_of_colours():
    """Its covariance, and that it is the same for all of a patch, and none for heat."""
    frame, offsets = np.full((4, 80, 80), 128, np.uint8), []
    for seed in range(600):
        template, search, _ = siamban(seed, frame, [30, 30, 20, 20])
        for patch in (template, search):
            torch.testing.assert_close(patch, patch[:, :1, :1].expand_as(patch), rtol=0, atol=1e-3)
            offsets.append(patch[:, 0, 0].numpy() - 128)
    offsets = np.array(offsets)
    assert np.abs(offsets[:, 3]).max() < 1e-3
    red, green, blue = (
        np.array([-0.559, 0.981, -0.419]),
        np.array([1.721, 0.199, -1.830]),
        np.array([4.645, 4.737, 4.883]),
    )
    for i, a in enumerate((red, green, blue)):
        assert offsets[:, i].mean() == pytest.approx(0, abs=0.12 * np.linalg.norm(a))
        assert offsets[:, i].std() == pytest.approx(np.linalg.norm(a), rel=0.08)
    assert np.corrcoef(offsets[:, 0], offsets[:, 1])[0, 1] == pytest.approx(0, abs=0.1)
    assert len(np.unique(offsets[:, 2])) == 1200  # template and search each have their own


def test_siambans_colours_are_not_cut_to_0_255():
    frame = np.zeros((4, 80, 80), np.uint8)
    assert min(siamban(seed, frame, [30, 30, 20, 20])[1].min() for seed in range(8)) < -1


@pytest.mark.parametrize(("size", "upright"), [(5, 0.3), (45, 0.8), (9, 0.0), (9, 1.0)])
def test_siambans_blur_is_a_cross(size, upright):
    patch = torch.from_numpy(image(3, 60, 60)).float()
    kernel = torch.zeros(size, size)
    kernel[:, size // 2] += upright / size
    kernel[size // 2] += (1 - upright) / size
    mirrored = F.pad(patch[:, None], (size // 2,) * 4, "reflect")
    expected = F.conv2d(mirrored, kernel[None, None])[:, 0]
    found = augment.blurred(patch, size, upright)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_fifth_of_siambans_search_patches_is_blurred():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (4, 120, 120), dtype=np.uint8)

    def rough(patch: torch.Tensor) -> float:
        return patch[3].diff().abs().mean().item()

    items = [siamban(seed, frame, [40, 40, 40, 40]) for seed in range(300)]
    templates, searches = ([rough(item[i]) for item in items] for i in (0, 1))
    usual = np.median(searches)
    assert np.mean([r < 0.6 * usual for r in searches]) == pytest.approx(0.2, abs=0.06)
    assert min(templates) > 0.8 * np.median(templates)


@pytest.mark.parametrize("box", [[20, 20, 0, 10], [20, 20, 10, -1], [math.nan] * 4])
def test_siamban_needs_boxes_with_an_area(box):
    assert siamban(0, image(4), box) is None


@pytest.mark.parametrize("item", [ostrack, siamban])
def test_the_same_generator_makes_the_same_item(item):
    first, again, other = (item(seed, image(4), [30, 20, 16, 12]) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize("item", [ostrack, siamban])
def test_frames_are_left_as_they_are(item):
    frame = image(4)
    frame.flags.writeable = False
    item(0, frame, [30, 20, 16, 12])
