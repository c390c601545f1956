"""What stands around the networks, against the released OSTrack, TBSI, ViPT and SiamBAN.

../shared/reference/tracking_ops.json holds inputs by formula, and what the released functions make
of them; tracking_ops.md says how it was made. (tests/reference_tracking_ops.py has its sections on
windows, heads and losses.) SiamBAN counts pixels by their middles, gmmt by their borders: SiamBAN's
centres are half a pixel less than ours.
"""

import json

import numpy as np
import pytest
import torch

from gmmt.data.crops import CropRule, area_side, context_side
from gmmt.data.sequence import Sequence
from gmmt.trackers import heads, siamese
from gmmt.trackers.official import RELEASED_INPUT
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import OneStream, OSTrack
from gmmt.tracking import Reading, Targets, cosine_window, track

HEIGHT, WIDTH = 60, 80
RGB, SIX_CHANNELS = {"rgb": 3}, {"rgb": 3, "tir": 3}
SMALL = {"hidden": 8, "dim": 8, "depth": 1, "heads": 1}  # crops of full size, and a map of 16 x 16


@pytest.fixture(scope="module")
def ops(shared):
    return json.loads((shared / "reference" / "tracking_ops.json").read_text())


def image(channels: int) -> np.ndarray:
    """The formula's image, uint8 [C, 60, 80]."""
    c, y, x = np.ogrid[:channels, :HEIGHT, :WIDTH]
    return ((7 * y + 13 * x + 29 * c + (x * y) % 17) % 256).astype(np.uint8)


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")


def centre_maps(size: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The formula's score [1, 1, S, S], size and offset [1, 2, S, S] of step k."""
    y, x = grid(size)
    m = {5: 23, 16: 251}[size]
    score = ((11 * y + 7 * x + 3 * x * y + 5 * k) % m + 1) / (m + 5)
    wh = torch.stack([0.05 + ((2 * y + 3 * x + 5 * c + k) % 19) / 40 for c in range(2)])
    offset = torch.stack([((4 * y + x + 3 * c + k) % 10) / 10 for c in range(2)])
    return score[None, None], wh[None], offset[None]


def siamban_maps(size: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula's logits [1, 2, S, S] and distances [1, 4, S, S] of step k."""
    y, x = grid(size)
    cls = torch.stack([((5 * y + 3 * x + 7 * c + x * y + k) % 11) / 4 - 1.25 for c in range(2)])
    first, m, step = {5: (3, 13, 0.5), 25: (20, 29, 1.5)}[size]
    loc = torch.stack([first + ((2 * y + 3 * x + 5 * c + k) % m) * step for c in range(4)])
    return cls[None], loc[None]


def cut(rule: CropRule, channels: int, box: list[float], size: int) -> torch.Tensor:
    """A crop [C, size, size] in whole grey levels, rounded half up as OpenCV does."""
    frame, box = torch.from_numpy(image(channels))[None], torch.tensor([box])
    crop = rule.cut(frame, box[:, :2] + box[:, 2:] / 2, box[:, 2:], size)
    return (crop[0] + 0.5).floor()


def move(reading: Reading, cx: float, cy: float, w: float, h: float) -> np.ndarray:
    """The box (x, y, w, h) after a step in which the only candidate is (cx, cy, w, h), in pixels of
    the frame.
    """
    one_to_one = CropRule(32, 32, lambda wh: wh.new_tensor([32.0]), 0.0)  # whatever the target
    target = Targets([[30.0, 20, 16, 12]], [(HEIGHT, WIDTH)], one_to_one, reading)
    x, y = cx - 38, cy - 26
    box = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return target.move(torch.ones(1, 1, 1), box.reshape(1, 4, 1, 1))[0, :4].double().numpy()


# --- crops ----------------------------------------------------------------------------------------


def test_ostracks_crops(ops):
    cases = ops["A_sample_target"]["crops_3ch"] + ops["A_sample_target"]["crops_6ch"]
    differ = total = 0
    for case in cases:
        expected = torch.tensor(case["crop"], dtype=torch.float32).permute(2, 0, 1)
        rule = CropRule(round(2 * case["out"] / case["factor"]), 1, area_side, 0.0, "ostrack")
        ours = cut(rule, len(expected), case["box"], case["out"])
        assert (ours - expected).abs().max() <= 1, case["name"]
        differ, total = differ + int((ours != expected).sum()), total + ours.numel()
    assert total == 32256
    assert differ / total < 0.065  # OpenCV computes in fixed point: 2066 values differ, by 1 level


def test_ostracks_scale_is_that_of_its_rounded_search_patch(ops):
    for case in ops["A_sample_target"]["crops_3ch"]:
        template = round(2 * case["out"] / case["factor"])
        rule = CropRule(template, case["out"], area_side, 0.0, "ostrack")
        scale = rule.scale(torch.tensor([case["box"][2:]])).item()
        assert 1 / scale == pytest.approx(case["resize_factor"], rel=1e-6)


def test_siambans_subwindows(ops):
    differ = total = 0
    for case in ops["D_siamban"]["get_subwindow"]:
        expected = torch.tensor(case["patch_chw"], dtype=torch.float32)
        rule = CropRule(15, 31, context_side, None, "siamban")
        if case["what"] == "fixed":  # a square of a given size
            side = float(case["original_sz"])
            rule = CropRule(16, 16, lambda wh, side=side: wh.new_tensor([side]), None, "siamban")
        ours = cut(rule, 3, case["box"], case["model_sz"])
        assert (ours - expected).abs().max() <= 1, (case["name"], case["what"])
        differ, total = differ + int((ours != expected).sum()), total + ours.numel()
    assert total == 26259
    assert differ / total < 0.07  # 1735 values differ, by 1 level


def test_a_patch_of_its_squares_own_size_is_cut_out_as_it_is(ops):
    case = ops["A_sample_target"]["no_resize_crop"]
    rule = CropRule(26, 26, area_side, 0.0, "ostrack")
    expected = torch.tensor(case["crop"], dtype=torch.float32).permute(2, 0, 1)
    assert torch.equal(cut(rule, 3, case["box"], 26), expected)


def test_boxes_without_a_place_or_a_size(ops):
    cases = ops["A_sample_target"]["degenerate"]
    rule = CropRule(16, 16, area_side, 0.0, "ostrack")
    assert cases["zero_area"]["raised"]
    with pytest.raises(ValueError, match="expected finite centres and sizes above 0"):
        cut(rule, 3, cases["zero_area"]["box"], 16)
    with pytest.raises(ValueError, match="expected finite centres and sizes above 0"):
        cut(rule, 3, [float("nan"), 20, 12, 12], 16)
    assert cut(rule, 3, cases["outside_right"]["box"], 16).sum() == cases["outside_right"]["sum"]
    # Left of the frame the released code shows pixels of the right border, which is no model.
    assert cut(rule, 3, cases["outside_left"]["box"], 16).sum() == 0


def test_siamban_fills_up_with_the_mean(ops):
    patch = cut(CropRule(15, 31, context_side, None, "siamban"), 3, [500, 500, 9, 9], 15)
    for channel, mean in zip(patch, ops["D_siamban"]["channel_average"], strict=True):
        assert torch.equal(channel, torch.full((15, 15), round(mean)).float())


# --- reading a score map --------------------------------------------------------------------------


def test_of_equal_scores_the_first_is_taken(ops):
    rule = CropRule(40, 40, lambda wh: wh.new_tensor([40.0]), 0.0)
    score = torch.full((5, 5), 0.5)
    score[1, 3] = score[3, 1] = 0.9
    _, size, offset = centre_maps(5, 0)
    reading = Reading(**OSTrack.reading | {"clip": "centre", "combine": "mix", "window": 0.0})
    target = Targets([[30.0, 20, 16, 12]], [(HEIGHT, WIDTH)], rule, reading)
    found = target.move(score[None], heads.decode_centre(size, offset, 8))[0, :4].double().numpy()
    shares = (found[:2] + found[2:] / 2 - [38, 26]) / 40 + 0.5, found[2:] / 40
    bbox = ops["B_test_time"]["cal_bbox_tie"]["bbox"]
    assert np.concatenate(shares) == pytest.approx(bbox, abs=1e-6)


def test_ostracks_box_is_mapped_back_to_the_frame(ops):
    shift = 100.0  # away from the frame's border, where a box would be clipped
    for case in ops["B_test_time"]["map_box_back"]:
        search, scale = case["search_size"], 1 / case["resize_factor"]
        rule = CropRule(search, search, lambda wh, s=search * scale: wh.new_tensor([s]), 0.0)
        reading = Reading(**OSTrack.reading | {"margin": 0})
        target = Targets([np.add(case["state"], [shift, shift, 0, 0])], [(300, 300)], rule, reading)
        cx, cy, w, h = case["pred_cxcywh"]  # in pixels of the frame, from the patch's corner
        x, y = cx - search * scale / 2, cy - search * scale / 2
        box = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) / scale
        found = target.move(torch.ones(1, 1, 1), box.reshape(1, 4, 1, 1))[0, :4].double().numpy()
        assert found - [shift, shift, 0, 0] == pytest.approx(case["out"], abs=5e-5)


def test_ostracks_clipping(ops):
    for case in ops["B_test_time"]["clip_box"] + ops["B_test_time"]["clip_box_margin0"]:
        x, y, w, h = case["box"]
        reading = Reading(**OSTrack.reading | {"margin": case["margin"]})
        found = move(reading, x + w / 2, y + h / 2, w, h)
        assert found == pytest.approx(case["out"], abs=2e-5), case


def test_siambans_clipping(ops):
    for case in ops["D_siamban"]["bbox_clip"]:
        reading = Reading(**siamese.OFFICIAL_READING | {"resize": "at once", "hann": "inside"})
        x, y, w, h = move(reading, *case["cxcywh"])
        assert [x + w / 2, y + h / 2, w, h] == pytest.approx(case["out"], abs=2e-5), case


def test_siambans_penalty(ops):
    """The chosen cell and the size after the first step of the first trace, without the window that
    could hide a wrong penalty.
    """
    detail, trace = ops["D_siamban"]["one_step_detail"], ops["D_siamban"]["track_trace"][0]
    cls, loc = siamban_maps(5, 0)
    tracker = Siamese(template=15, search=31)
    tracker.stride = 8
    scores, boxes = tracker.decode(cls, (loc / 8).log())
    penalty = np.array(detail["penalty"]).flatten()
    for cell in range(25):
        alone = torch.zeros(25)
        alone[cell] = 1.0
        reading = Reading(penalty=trace["PENALTY_K"], window=0.0, rate=1.0, smallest=0.0)
        target = Targets([[30.0, 20, 16, 12]], [(HEIGHT, WIDTH)], tracker.crops, reading)
        *found, score = target.move(alone.reshape(1, 5, 5), boxes)[0].double().tolist()
        assert score == 1.0
        new = (boxes[0, 2:] - boxes[0, :2]).flatten(1)[:, cell] * tracker.crops.scale(
            torch.tensor([[16.0, 12.0]])
        )
        # penalty * score * rate
        share = (np.array(found[2:]) - [16, 12]) / (new.numpy() - [16, 12])
        assert share == pytest.approx(penalty[cell], rel=1e-3)
    assert scores[0].flatten()[detail["best_idx"]].item() == pytest.approx(
        trace["steps"][0]["best_score"], rel=1e-5
    )


# --- whole tracks, the networks replaced by formulas ----------------------------------------------


def one_stream(kind: type[OneStream], **options) -> tuple[OneStream, list[torch.Tensor]]:
    """A tracker of two times three channels that answers by formula, and a list that will hold the
    means of its search patches.
    """
    seen = []

    class Formula(kind):
        modalities = SIX_CHANNELS

        def encode_template(self, crops, mode):
            return torch.zeros(len(crops), 1)

        def search(self, template, crops, mode, steps=1, draws=None):
            seen.append(torch.cat(self.images(crops.round()), dim=1).mean((0, 2, 3)))
            return centre_maps(16, len(seen) - 1)

    return Formula(**SMALL, **options), seen


def still(trace: dict, modalities: dict[str, int]) -> Sequence:
    """A sequence that shows the formula's image again and again."""
    boxes = np.full((1 + len(trace["steps"]), 4), np.nan)
    boxes[0] = trace["init_bbox"]
    frame = image(sum(modalities.values()))
    return Sequence("still", boxes, lambda i: frame, (HEIGHT, WIDTH), modalities)


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (TBSI, {**RELEASED_INPUT["tbsi"], "at": []}, "tbsi"),
        (ViPT, {**RELEASED_INPUT["vipt"], "keep": {}}, "vipt"),
        (OSTrack, {**RELEASED_INPUT["ostrack"], "keep": {}}, "vipt"),  # both have OSTrack's boxes
    ],
)
def test_tracks_of_ostracks_heirs(ops, kind, options, name):
    trace = ops["B_test_time"][f"track_trace_{name}"]
    tracker, seen = one_stream(kind, **options)
    mode = next(iter(tracker.head))
    found = list(track(tracker, mode, still(trace, tracker.modalities)))[1:]
    window = cosine_window(16, "inside", "cpu").flatten()
    for k, ((box, score), step) in enumerate(zip(found, trace["steps"], strict=True)):
        assert box == pytest.approx(step["target_bbox"], abs=2e-5)
        best = step["argmax"]
        assert score == centre_maps(16, k)[0].flatten()[best]  # before the window
        if "best_score" in step:  # ViPT tells it behind the window
            assert score * window[best].item() == pytest.approx(step["best_score"], rel=1e-5)
        assert seen[k].tolist() == pytest.approx(step["search_mean_per_channel"], abs=0.01)


def siamban(trace: dict) -> tuple[Siamese, list[torch.Tensor]]:
    """A tracker of three channels that answers by formula, and a list that will hold the means of
    its patches.
    """
    seen = []

    class Formula(Siamese):
        modalities = RGB

        def encode_template(self, crops, mode):
            seen.append(crops.round().mean((0, 2, 3)))
            return torch.zeros(len(crops), 1)

        def search(self, template, crops, mode, steps=1, draws=None):
            seen.append(crops.round().mean((0, 2, 3)))
            cls, distance = siamban_maps(trace["score_size"], len(seen) - 2)
            return cls, (distance / self.stride).log()

    sizes = {"template": trace["EXEMPLAR_SIZE"], "search": trace["INSTANCE_SIZE"]}
    tracker = Formula(**sizes, whole_pixels="siamban")
    tracker.stride = 8
    tracker.reading = siamese.OFFICIAL_READING | {
        "penalty": trace["PENALTY_K"],
        "window": trace["WINDOW_INFLUENCE"],
        "rate": trace["LR"],
    }
    return tracker, seen


@pytest.mark.parametrize("k", range(4))
def test_siambans_tracks(ops, k):
    trace = ops["D_siamban"]["track_trace"][k]
    tracker, _ = siamban(trace)
    sequence = still(trace, tracker.modalities)
    # Where SiamBAN clips a centre to the frame it means the pixel's middle. With its own numbers
    # for our centres boxes are equal there, too; patches are cut half a pixel off.
    sequence.boxes[0, :2] -= 0.5
    found = list(track(tracker, "rgb", sequence))[1:]
    for (box, score), step in zip(found, trace["steps"], strict=True):
        assert box == pytest.approx(step["bbox"], abs=5e-5)
        assert score == pytest.approx(step["best_score"], rel=1e-5)


@pytest.mark.parametrize("k", [0, 2])  # in which no centre is clipped
def test_siambans_tracks_and_patches(ops, k):
    trace = ops["D_siamban"]["track_trace"][k]
    tracker, seen = siamban(trace)
    found = list(track(tracker, "rgb", still(trace, tracker.modalities)))[1:]
    assert seen[0].tolist() == pytest.approx(trace["template_mean_per_channel"], abs=0.2)
    for (box, _), means, step in zip(found, seen[1:], trace["steps"], strict=True):
        assert box == pytest.approx(np.add(step["bbox"], [0.5, 0.5, 0, 0]), abs=5e-5)
        assert means.tolist() == pytest.approx(step["search_mean_per_channel"], abs=0.2)
