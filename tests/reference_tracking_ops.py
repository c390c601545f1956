"""tracking_ops.json: what the released trackers compute around their networks.

Its companion tracking_ops.md gives the formulas of the inputs and the tolerances. Every section has
its place: tested here (SECTIONS), in tests/test_tracking_ops.py (ELSEWHERE), or not yet (WAITS).
"""

from pathlib import Path

import numpy as np
import torch
from reference_format import close
from reference_trackers import best_box

from gmmt.trackers import heads
from gmmt.trackers.official import KINDS, RELEASED_INPUT
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.vit import ViT
from gmmt.tracking import cosine_window

ELSEWHERE = (  # crops, clipping, tracking
    "A_sample_target.crops_3ch",
    "A_sample_target.crops_6ch",
    "A_sample_target.no_resize_crop",
    "A_sample_target.degenerate",
    "B_test_time.map_box_back",
    "B_test_time.clip_box",
    "B_test_time.clip_box_margin0",
    "B_test_time.cal_bbox_tie",
    "B_test_time.track_trace_tbsi",
    "B_test_time.track_trace_vipt",
    "D_siamban.channel_average",
    "D_siamban.get_subwindow",
    "D_siamban.bbox_clip",
    "D_siamban.track_trace",
    "D_siamban.one_step_detail",
)
WAITS = {  # section: for what
    "A_sample_target.with_mask": "masks: no tracker here learns from them",
    "B_test_time.hann2d_5_not_centered": "no tracker here has its window about the corner",
    "C_training.transform_image_to_crop": "training on real data",
    "C_training.jittered_box": "training on real data",
    "C_training.keep_rate": "training on real data",
    "C_training.sampler_causal": "training on real data",
    "C_training.flip": "training on real data",
    "C_training.brightness": "training on real data",
    "C_training.lr_at_epoch_1based": "training on real data",
    "D_siamban.score_size_15_31_2": "no network here has these sizes; the traces have such maps",
    "D_siamban.convert_score_5x5_one_channel": "SiamBAN's settings have two channels",
    "D_siamban.training.cls_loss_with_exactly_one_positive": "points chosen by hand",
    "D_siamban.training.losses_with_no_positive": "points chosen by hand",
    "D_siamban.training.lr_per_epoch_0based": "training on real data",
    "D_siamban.training.shift_scale_aug": "training on real data",
    "D_siamban.training.crop511_box": "training on real data",
}


# --- inputs by formula ----------------------------------------------------------------------------


def grid(n: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Channel, row and column of each cell [channels, n, n]."""
    axes = torch.arange(channels), torch.arange(n), torch.arange(n)
    return torch.meshgrid(*axes, indexing="ij")


def image(channels: int = 6) -> torch.Tensor:
    """The frame [1, C, 60, 80], 0..255."""
    axes = torch.arange(channels), torch.arange(60), torch.arange(80)
    c, y, x = torch.meshgrid(*axes, indexing="ij")
    return ((7 * y + 13 * x + 29 * c + (x * y) % 17) % 256)[None].float()


def centre_maps(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score [1, n, n], size [1, 2, n, n] and offset [1, 2, n, n] of OSTrack's head."""
    m = 23 if n == 5 else 251
    _, y, x = grid(n)
    score = (((11 * y + 7 * x + 3 * x * y + 5 * k) % m) + 1) / (m + 5)
    c, y, x = grid(n, 2)
    size = 0.05 + ((2 * y + 3 * x + 5 * c + k) % 19) / 40
    offset = ((4 * y + x + 3 * c + k) % 10) / 10
    return score, size[None], offset[None]


def predicted_heat(n: int, batch: int = 2) -> torch.Tensor:
    """A score map [B, 1, n, n] for the focal loss."""
    b, y, x = grid(n, batch)
    return ((((3 * y + 5 * x + 7 * b + x * y) % 19) + 0.5) / 20)[:, None]


def siamban_logits(k: int) -> torch.Tensor:
    """[1, 2, 5, 5]; channel 1 is the target."""
    c, y, x = grid(5, 2)
    return (((5 * y + 3 * x + 7 * c + x * y + k) % 11) / 4 - 1.25)[None]


def siamban_distances(k: int) -> torch.Tensor:
    """Distances [1, 4, 5, 5] (left, top, right, bottom) in pixels."""
    c, y, x = grid(5, 4)
    return (3 + ((2 * y + 3 * x + 5 * c + k) % 13) / 2)[None]


def around_the_middle(boxes_xywh, side: float) -> torch.Tensor:
    """Boxes [B, 4] (x1, y1, x2, y2) in pixels around a patch's middle, of shares of its side."""
    boxes = torch.tensor(boxes_xywh, dtype=torch.float64)  # else 2.5 cells might be 2.5000002
    return ((torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) - 0.5) * side).float()


# --- OSTrack's head: reading ----------------------------------------------------------------------


def boxes_of_centre_maps(section: list) -> None:
    for case in section:
        score, size, offset = centre_maps(5, case["k"])
        boxes = heads.decode_centre(size, offset, 16)
        if case["n_ties"] == 1:
            close(best_box(score, boxes, 80)[0], case["bbox"])
        windowed = score * cosine_window(5, "inside", torch.device("cpu"))
        close(best_box(windowed, boxes, 80)[0], case["bbox_windowed"])
        close(windowed.max(), case["max_score_windowed"])


def window_of_16_cells(section: list) -> None:
    close(cosine_window(16, "inside", torch.device("cpu")), section)


def window_of_5_cells(section: list) -> None:
    close(cosine_window(5, "inside", torch.device("cpu")), section)


def standardised(kind: str, section: dict) -> None:
    """Both images of a patch; ours repeat one thermal channel, the file has three."""
    options = {"depth": 2, "dim": 16, "heads": 2, "hidden": 16, **RELEASED_INPUT[kind]}
    options |= {"at": (0,)} if kind == "tbsi" else {"keep": {}}
    tracker = KINDS[kind](**options)
    patch = image()[:, :, 10:12, 20:23]
    for channel in range(3):
        crops = patch[:, [0, 1, 2, 3 + channel]]
        rgb, tir = tracker.images(crops)
        close(rgb[0], section["out"][:3])
        close(tir[0, channel], section["out"][3 + channel])


def images_of_tbsi(section: dict) -> None:
    standardised("tbsi", section)


def images_of_vipt(section: dict) -> None:
    standardised("vipt", section)


# --- OSTrack's head: training ---------------------------------------------------------------------


def heat_maps(section: list) -> None:
    for case in section:
        heat = heads.centre_labels(around_the_middle([case["box_norm_xywh"]], 256), 16, 16)[0]
        wh = torch.tensor([case["box_norm_xywh"][2:]]) * 16
        assert heads.centre_radius(wh).item() == case["radius_int"]
        if any(not 0 <= at <= 15 for at in case["center_int"]):
            # The released map has no 1 where the centre is rounded to a cell outside of it; ours
            # takes the nearest cell, so that every target has one.
            x, y = (min(max(at, 0), 15) for at in case["center_int"])
            assert heat[y, x] == 1
            assert case["n_equal_one"] == 0
            continue
        expected = torch.zeros(16, 16)
        for y, x, value in case["nonzero"]:
            expected[y, x] = value
        close(heat, expected)
        assert (heat == 1).sum() == case["n_equal_one"]


def gaussian(section: list) -> None:
    """One of radius 2, about cell (8, 8)."""
    heat = heads.centre_labels(around_the_middle([[0.1, 0.2, 0.75, 0.55]], 256), 16, 16)[0]
    close(heat[6:11, 6:11], section)


def focal(score: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The focal term alone, for maps of 16 pixels a cell."""
    maps = torch.full((len(score), 2, *score.shape[2:]), 0.5)
    return heads.centre_loss(score, maps, maps, boxes, 16)["focal"]


def focal_loss(section: dict) -> None:
    boxes, score = around_the_middle(section["target_boxes"], 80), predicted_heat(5)
    close(heads.centre_labels(boxes, 5, 16), section["target"])
    close(focal(score[:1], boxes[:1]), section["loss_first_only"])
    loss = focal(score.requires_grad_(), boxes)
    close(loss.detach(), section["loss"])
    loss.backward()
    close(score.grad[0, 0], section["grad_first_item"])
    # Not ours: loss_no_positive has a target map without any 1 but not empty, made by hand;
    # loss_pred_zero_at_positive a score of 0, where both heads end at 1e-4.


def focal_loss_of_16_cells(section: dict) -> None:
    boxes, score = around_the_middle(section["target_boxes"], 256), predicted_heat(16)
    close(heads.centre_labels(boxes, 16, 16).sum((1, 2)), section["target_sum_per_item"])
    close(focal(score, boxes), section["loss"])
    alone = [focal(score[i : i + 1], boxes[i : i + 1]).item() for i in range(2)]
    close(alone, section["loss_per_item_alone"])


def overlaps(section: dict) -> None:
    a, b = torch.tensor(section["boxes1"]), torch.tensor(section["boxes2"])
    iou, giou = heads.overlap(a, b)
    close(iou, section["iou"])
    close(1 - giou, section["per_pair"])
    close((1 - giou).mean(), section["loss"])


def whole_centre_loss(section: dict) -> None:
    """The maps hold the predicted box in the true centre's cell, where the loss reads it."""
    boxes, score = around_the_middle(section["gt_xywh"], 80), predicted_heat(5)
    predicted = torch.tensor(section["pred_cxcywh"])
    size, offset = torch.zeros(2, 2, 5, 5), torch.zeros(2, 2, 5, 5)
    for i, heat in enumerate(heads.centre_labels(boxes, 5, 16)):
        (at,) = (heat == 1).nonzero()
        size[i, :, at[0], at[1]] = predicted[i, 2:]
        offset[i, :, at[0], at[1]] = predicted[i, :2] * 5 - at.flip(0)
    terms, status = heads.centre_loss(score, size, offset, boxes, 16), section["status"]
    close(terms["l1"], 5 * status["Loss/l1"])
    close(terms["giou"], 2 * status["Loss/giou"])
    # The second centre, 4.75 cells from the left, is rounded to 5, outside of the map: to the
    # released focal loss, which divides by the number of centres, it is no target.
    nowhere = torch.full((1, 4), torch.nan)
    location = focal(score[:1], boxes[:1]) + focal(score[1:], nowhere)
    close(location, status["Loss/location"])
    close(location + terms["l1"] + terms["giou"], status["Loss/total"])


def middle_of_the_template(section: dict) -> None:
    """Which tokens decide on elimination: ours are those of the rule CTR_POINT. The rules CTR_REC
    and GT_BOX are no tracker's.
    """
    for template in (128, 192):
        with torch.device("meta"):
            backbone = ViT(16, 1, 2, template=template)
        assert backbone.middle == section[f"CTR_POINT_{template}"]


# --- SiamBAN --------------------------------------------------------------------------------------


def siamban_window(section: list) -> None:
    close(cosine_window(5, "whole", torch.device("cpu")), section)


def siamban_points(section: list) -> None:
    close(heads.points(5, 8).permute(1, 2, 0), section)


def siamban_boxes(section: list) -> None:
    boxes = heads.decode((siamban_distances(0) / 8).log(), 8)[0]
    close(torch.cat([(boxes[:2] + boxes[2:]) / 2, boxes[2:] - boxes[:2]]), section, atol=1e-5)


def siamban_scores(section: list) -> None:
    score, _ = Siamese().decode(siamban_logits(0), siamban_distances(0))
    close(score[0], section)


def siamban_points_in_training(section: dict) -> None:
    close(heads.points(25, 8)[0, 0] + 127, section["x_first_row"])
    close(heads.points(25, 8)[1, :, 0] + 127, section["y_first_col"])


def siamban_points_of_5_in_training(section: dict) -> None:
    close(heads.points(5, 8)[0, 0] + 15, section["x_first_row"])
    close(heads.points(5, 8)[1, :, 0] + 15, section["y_first_col"])


def siamban_labels(section: list) -> None:
    """All points before the released code draws 64 of them; ours uses all."""
    pairs = [case for case in section if not case["neg_pair"]]  # of others ours has no box at all
    assert len(pairs) > 5
    for case in pairs:
        size, stride = case["out"], case["stride"]
        box = torch.tensor([case["box_xyxy"]]) - case["search"] // 2
        positive, negative = heads.labels(box, size, stride)
        rows = []
        for i in range(size):
            marks = np.full(size, ".")
            marks[positive[0, i]], marks[negative[0, i]] = "1", "0"
            rows.append("".join(marks))
        assert rows == case["label_before_sampling"]
        assert positive.sum() == case["candidates"]["pos"]
        assert negative.sum() == case["candidates"]["neg"]
        for place, distances in case.get("delta_ltrb_samples_yx", {}).items():
            if min(distances) > 0:
                y, x = map(int, place.split(","))
                loc = (torch.tensor(distances) / stride).log()[None, :, None, None]
                found = heads.decode(loc.expand(1, 4, size, size), stride)[0, :, y, x]
                close(found, box[0], atol=1e-4)


def siamban_losses(section: dict) -> None:
    """SiamBAN counts each point of a batch alike, ours each image; so only what both are made of is
    compared: labels, boxes, overlaps, and which class is the target.
    """
    boxes = torch.tensor(section["boxes"], dtype=torch.float32) - 15
    positive, negative = heads.labels(boxes, 5, 8)
    assert positive.sum() == section["n_pos"]
    assert negative.sum() == section["n_neg"]
    logits = torch.cat([siamban_logits(0), siamban_logits(3)])
    surprise = -logits.log_softmax(1)
    cls = 0.5 * surprise[:, 1][positive].mean() + 0.5 * surprise[:, 0][negative].mean()
    close(cls, section["cls_loss"])
    loc = (torch.cat([siamban_distances(0), siamban_distances(4)]) / 8).log()
    found = heads.decode(loc, 8)
    truth = boxes[:, :, None, None].expand_as(found)
    close((1 - one_pixel_more(found, truth)[0])[positive].mean(), section["loc_loss"])


def one_pixel_more(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and generalised IoU as SiamBAN has them, (I + 1) / (U + 1), from ours, I / U."""
    iou, giou = heads.overlap(a, b)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    union = areas / (1 + iou)
    smoothed = (iou * union + 1) / (union + 1)
    return smoothed, smoothed - (iou - giou)


def siamban_overlaps(section: dict) -> None:
    """The linear and the generalised one; the third, "iou", is the linear one's logarithm."""
    sides = torch.tensor([-1.0, -1, 1, 1])
    a = torch.tensor(section["pred_ltrb"]) * sides
    b = torch.tensor(section["target_ltrb"]) * sides
    iou, giou = one_pixel_more(a, b)
    close(1 - iou, section["linear_iou"])
    close(1 - giou, section["giou"])
    close(-iou.log(), section["iou"])


# --- which section is tested where ----------------------------------------------------------------

SECTIONS = {
    "B_test_time.cal_bbox_5x5": boxes_of_centre_maps,
    "B_test_time.hann2d_16_centered": window_of_16_cells,
    "B_test_time.hann2d_5_centered": window_of_5_cells,
    "B_test_time.preprocess_tbsi": images_of_tbsi,
    "B_test_time.preprocess_vipt": images_of_vipt,
    "C_training.heatmap_256_16": heat_maps,
    "C_training.gaussian2D_r2": gaussian,
    "C_training.focal": focal_loss,
    "C_training.focal_16x16": focal_loss_of_16_cells,
    "C_training.giou": overlaps,
    "C_training.actor_total": whole_centre_loss,
    "C_training.ce_template_mask_true_tokens": middle_of_the_template,
    "D_siamban.window_5x5": siamban_window,
    "D_siamban.points_5x5": siamban_points,
    "D_siamban.convert_bbox_5x5_cxcywh": siamban_boxes,
    "D_siamban.convert_score_5x5_two_channel": siamban_scores,
    "D_siamban.training.points_25": siamban_points_in_training,
    "D_siamban.training.points_5_stride8_center15": siamban_points_of_5_in_training,
    "D_siamban.training.point_target": siamban_labels,
    "D_siamban.training.losses_2x5x5": siamban_losses,
    "D_siamban.training.iou_loss": siamban_overlaps,
}


def sections_of(d: dict) -> dict[str, object]:
    """Every section by its name: "B_test_time.clip_box", "D_siamban.training.points_25"."""
    found = {}
    for name, part in d.items():
        if name == "meta":
            continue
        for key, section in part.items():
            if key == "training":
                found |= {f"{name}.training.{k}": v for k, v in section.items()}
            else:
                found[f"{name}.{key}"] = section
    return found


def every_section_has_its_place(d: dict) -> None:
    places = [*SECTIONS, *ELSEWHERE, *WAITS]
    assert len(set(places)) == len(places)
    unknown = [name for name in sections_of(d) if name not in places]
    assert not unknown, f"no test knows the sections {', '.join(unknown)}"
    there = (Path(__file__).parent / "test_tracking_ops.py").read_text()
    for name in ELSEWHERE:
        key = name.rpartition(".")[2].removesuffix("tbsi").removesuffix("vipt")
        assert key in there, f"tests/test_tracking_ops.py does not read {name}"


def checks_of_sections(d: dict) -> list:
    """The checks of all sections that a file holds and that are tested here."""

    def check(name: str, test):
        def on_section(d: dict) -> None:
            test(sections_of(d)[name])

        on_section.__name__ = test.__name__
        return on_section

    return [check(name, SECTIONS[name]) for name in sections_of(d) if name in SECTIONS]
