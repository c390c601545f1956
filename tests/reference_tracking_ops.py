"""tracking_ops.json: what the released trackers compute around their networks.

Its companion tracking_ops.md gives the formulas of the inputs and the tolerances. Every section has
its place: tested here (SECTIONS), or in another file (ELSEWHERE).
"""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from reference_format import close
from reference_trackers import best_box

from gmmt import rates
from gmmt.data.crops import CropRule, area_side
from gmmt.trackers import heads
from gmmt.trackers.official import KINDS, RELEASED_INPUT
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.vit import ELIMINATION, ELIMINATION_EPOCHS, ViT, keep_rate
from gmmt.tracking import cosine_window

ELSEWHERE = {
    "test_tracking_ops.py": (  # crops, clipping, tracking
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
    ),
    "test_augment.py": (
        "C_training.transform_image_to_crop",
        "C_training.jittered_box",
        "C_training.flip",
        "C_training.brightness",
        "D_siamban.training.shift_scale_aug",
        "D_siamban.training.crop511_box",
    ),
    "test_sampling.py": ("C_training.sampler_causal",),
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


def window_about_the_corner(section: list) -> None:
    """No tracker here has it. It is 1 minus what hann of S + 3 points begins with, and mirrored."""
    line = 1 - cosine_window(8, "whole", torch.device("cpu")).diagonal().sqrt()[:3]
    line = torch.cat([line, line[1:].flip(0)])
    close(torch.outer(line, line), section)


def mask_of_a_target(section: dict) -> None:
    """No tracker here learns from masks; cut as a frame, one comes out so."""
    assert section["mask_rule"] == "1 for 18<=y<30, 22<=x<36"
    mask, (x, y, w, h) = torch.zeros(1, 1, 60, 80), section["box"]
    mask[..., 18:30, 22:36] = 1
    rule = CropRule(8, 16, area_side, 0.0, "ostrack")
    center, wh = torch.tensor([[x + w / 2, y + h / 2]]), torch.tensor([[w, h]])
    close(rule.cut(mask, center, wh, section["out"])[0, 0], section["mask_crop"])


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
    # What heads here never give: a map without any 1 (the released loss then is a sum, not a mean),
    # and a score of 0, which the released loss takes for 1e-12.
    score, target = score.detach(), heads.centre_labels(boxes, 5, 16)
    with patch.object(heads, "centre_labels", lambda *_: 0.9 * target):
        close(focal(score, boxes) * len(boxes), section["loss_no_positive"])
    close(
        focal(score.where(target[:, None] < 1, 1e-12), boxes), section["loss_pred_zero_at_positive"]
    )


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
    """The maps hold the predicted boxes only in those cells in which the loss must read them."""
    boxes, score = around_the_middle(section["gt_xywh"], 80), predicted_heat(5)
    predicted, status = torch.tensor(section["pred_cxcywh"]), section["status"]

    def terms(chosen: torch.Tensor, best: bool) -> dict[str, torch.Tensor]:
        size, offset = torch.zeros(2, 2, 5, 5), torch.zeros(2, 2, 5, 5)
        for i, cell in enumerate(chosen.flatten(1).argmax(1)):
            y, x = divmod(cell.item(), 5)
            size[i, :, y, x] = predicted[i, 2:]
            offset[i, :, y, x] = predicted[i, :2] * 5 - torch.tensor([x, y])
        return heads.centre_loss(score, size, offset, boxes, 16, best)

    of_centre = terms(heads.centre_labels(boxes, 5, 16), False)
    of_highest = terms(score, True)  # as released
    for found in (of_centre, of_highest):
        close(found["l1"], 5 * status["Loss/l1"])
        close(found["giou"], 2 * status["Loss/giou"])
    # The second centre, 4.75 cells from the left, is rounded to 5, outside of the map: to the
    # released focal loss, which divides by the number of centres, it is no target.
    nowhere = torch.full((1, 4), torch.nan)
    location = focal(score[:1], boxes[:1]) + focal(score[1:], nowhere)
    close(location, status["Loss/location"])
    close(location + of_highest["l1"] + of_highest["giou"], status["Loss/total"])


def middle_of_the_template(section: dict) -> None:
    """Which tokens decide on elimination: ours are those of the rule CTR_POINT. The rules CTR_REC
    and GT_BOX are no tracker's.
    """
    for template in (128, 192):
        with torch.device("meta"):
            backbone = ViT(16, 1, 2, template=template)
        assert [backbone.middle.start] == section[f"CTR_POINT_{template}"]


def share_of_tokens(section: dict) -> None:
    (share,) = set(ELIMINATION.values())
    for tracker, expected in (
        ("ostrack", section["ostrack_start20_total100_base0.7"]),
        ("vipt", section["vipt_start4_total20_base0.7"]),
    ):
        start, end = ELIMINATION_EPOCHS[tracker]
        for epoch, rate in expected.items():
            close(keep_rate(int(epoch), start, end, share), rate)
            assert int(epoch) > start or keep_rate(int(epoch), start, end, share) == 1


def rates_in_steps(section: dict) -> None:
    """The file counts epochs from 1."""
    for name, highest, constant in (
        ("tbsi_lr4e4_drop10_ep15", 4e-4, 10),
        ("tbsi_sot_lr1e4_drop10_ep15", 1e-4, 10),
        ("vipt_lr4e4_drop48_ep60", 4e-4, 48),
    ):
        for epoch, rate in section[name].items():
            close(highest * rates.stepped(int(epoch) - 1, constant), rate, atol=0)


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


def siamban_scores_of_one_channel(section: list) -> None:
    """No tracker here has that; a second channel of zeros makes it the same."""
    one = siamban_logits(0)[:, 1:]
    score, _ = Siamese().decode(torch.cat([0 * one, one], dim=1), siamban_distances(0))
    close(score[0], section)


def siamban_map(section: int) -> None:
    """No network here has a map of 5 x 5 for crops of 15 and 31; that of the released sizes has as
    many cells as the same rule says.
    """

    def cells(template: int, search: int, base: int) -> int:
        return (search - template) // 8 + 1 + base

    assert cells(15, 31, 2) == section
    with torch.device("meta"):
        tracker = Siamese("resnet50", template=127, search=255)
        template = tracker.encode_template(torch.empty(1, 4, 127, 127), "rgb")
        score, _ = tracker.search(template, torch.empty(1, 4, 255, 255), "rgb")
    assert score.shape[2:] == (cells(127, 255, 8),) * 2


def siamban_points_in_training(section: dict) -> None:
    close(heads.points(25, 8)[0, 0] + 127, section["x_first_row"])
    close(heads.points(25, 8)[1, :, 0] + 127, section["y_first_col"])


def siamban_points_of_5_in_training(section: dict) -> None:
    close(heads.points(5, 8)[0, 0] + 15, section["x_first_row"])
    close(heads.points(5, 8)[1, :, 0] + 15, section["y_first_col"])


def siamban_labels(section: list) -> None:
    """Before and after the released code draws 64 points."""
    assert {case["neg_pair"] for case in section} == {True, False}
    for seed, case in enumerate(section):
        size, stride = case["out"], case["stride"]
        box = torch.tensor([case["box_xyxy"]]) - case["search"] // 2
        given = box[:, [2, 3, 0, 1]] if case["neg_pair"] else box
        positive, negative = heads.labels(given, size, stride)
        rows = []
        for i in range(size):
            marks = np.full(size, ".")
            marks[positive[0, i]], marks[negative[0, i]] = "1", "0"
            rows.append("".join(marks))
        assert rows == case["label_before_sampling"]
        assert positive.sum() == case["candidates"]["pos"]
        assert negative.sum() == case["candidates"]["neg"]
        numbers = torch.rand(1, size, size, generator=torch.Generator().manual_seed(seed))
        few, many = heads.drawn_points(positive, negative, given, numbers)
        assert few.sum() == case["selected_default"]["pos"]
        assert many.sum() == case["selected_default"]["neg"]
        assert not (few & ~positive).any()
        assert not (many & ~negative).any()
        for place, distances in case.get("delta_ltrb_samples_yx", {}).items():
            if min(distances) > 0:
                y, x = map(int, place.split(","))
                loc = (torch.tensor(distances) / stride).log()[None, :, None, None]
                found = heads.decode(loc.expand(1, 4, size, size), stride)[0, :, y, x]
                close(found, box[0], atol=1e-4)


def siamban_loss(k: list[tuple[int, int]], boxes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The loss of maps with steps k of the logits and of the distances, as released."""
    logits = torch.cat([siamban_logits(step) for step, _ in k])
    distances = torch.cat([siamban_distances(step) for _, step in k])
    numbers = torch.arange(25).reshape(1, 5, 5).expand(len(k), 5, 5) / 25  # the first are drawn
    return heads.track_loss(logits, (distances / 8).log(), boxes, 8, numbers)


TWO_BOXES = torch.tensor([[2.0, 3, 27, 29], [-4, 0, 20, 31]]) - 15


def siamban_losses(section: dict) -> None:
    close(TWO_BOXES + 15, section["boxes"])
    loss = siamban_loss([(0, 0), (3, 4)], TWO_BOXES)
    close(loss["cls"], section["cls_loss"])
    close(loss["loc"], section["loc_loss"])
    positive, negative = heads.labels(TWO_BOXES, 5, 8)
    assert positive.sum() == section["n_pos"]
    assert negative.sum() == section["n_neg"]


def siamban_loss_of_one_positive(section: dict) -> None:
    """The released one forgets it in the class loss, ours does not. Of the first item's points the
    file takes the positive at (2, 2) and the first two negatives.
    """
    with patch.object(heads, "NEGATIVES", 2):
        loss = siamban_loss([(0, 0)], TWO_BOXES[:1])
    forgotten = -siamban_logits(0).log_softmax(1)[0, 1, 2, 2] / 2
    close(loss["cls"] - forgotten, section["cls_loss"])
    close(loss["loc"], section["loc_loss"])


def siamban_losses_without_positive(section: dict) -> None:
    """The released box loss fails, ours is 0."""
    with patch.object(heads, "POSITIVES", 0):
        loss = siamban_loss([(0, 0), (3, 4)], TWO_BOXES)
    close(loss["cls"], section["cls_loss"])
    assert section["loc_raised"] == "AssertionError"
    assert loss["loc"] == 0


def siamban_overlaps(section: dict) -> None:
    """The linear and the generalised one; the third, "iou", is the linear one's logarithm."""
    sides = torch.tensor([-1.0, -1, 1, 1])
    a = torch.tensor(section["pred_ltrb"]) * sides
    b = torch.tensor(section["target_ltrb"]) * sides
    iou, giou = heads.overlap(a, b, 1.0)
    close(1 - iou, section["linear_iou"])
    close(1 - giou, section["giou"])
    close(-iou.log(), section["iou"])
    close((1 - iou).mean(), section["linear_iou_mean"])
    weights = torch.tensor([1.0, 2, 3, 4])
    close(((1 - iou) * weights).sum() / weights.sum(), section["linear_iou_weighted_1234"])


def rates_warmed_up(section: list) -> None:
    shares = [rates.warmed_up(epoch, 20, 5, first=0.2, last=0.01) for epoch in range(20)]
    close(0.005 * torch.tensor(shares, dtype=torch.float64), section, atol=0)


# --- which section is tested where ----------------------------------------------------------------

SECTIONS = {
    "A_sample_target.with_mask": mask_of_a_target,
    "B_test_time.cal_bbox_5x5": boxes_of_centre_maps,
    "B_test_time.hann2d_16_centered": window_of_16_cells,
    "B_test_time.hann2d_5_centered": window_of_5_cells,
    "B_test_time.hann2d_5_not_centered": window_about_the_corner,
    "B_test_time.preprocess_tbsi": images_of_tbsi,
    "B_test_time.preprocess_vipt": images_of_vipt,
    "C_training.heatmap_256_16": heat_maps,
    "C_training.gaussian2D_r2": gaussian,
    "C_training.focal": focal_loss,
    "C_training.focal_16x16": focal_loss_of_16_cells,
    "C_training.giou": overlaps,
    "C_training.actor_total": whole_centre_loss,
    "C_training.keep_rate": share_of_tokens,
    "C_training.ce_template_mask_true_tokens": middle_of_the_template,
    "C_training.lr_at_epoch_1based": rates_in_steps,
    "D_siamban.score_size_15_31_2": siamban_map,
    "D_siamban.window_5x5": siamban_window,
    "D_siamban.points_5x5": siamban_points,
    "D_siamban.convert_bbox_5x5_cxcywh": siamban_boxes,
    "D_siamban.convert_score_5x5_two_channel": siamban_scores,
    "D_siamban.convert_score_5x5_one_channel": siamban_scores_of_one_channel,
    "D_siamban.training.points_25": siamban_points_in_training,
    "D_siamban.training.points_5_stride8_center15": siamban_points_of_5_in_training,
    "D_siamban.training.point_target": siamban_labels,
    "D_siamban.training.losses_2x5x5": siamban_losses,
    "D_siamban.training.cls_loss_with_exactly_one_positive": siamban_loss_of_one_positive,
    "D_siamban.training.losses_with_no_positive": siamban_losses_without_positive,
    "D_siamban.training.iou_loss": siamban_overlaps,
    "D_siamban.training.lr_per_epoch_0based": rates_warmed_up,
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
    places = [*SECTIONS, *(name for names in ELSEWHERE.values() for name in names)]
    assert len(set(places)) == len(places)
    unknown = [name for name in sections_of(d) if name not in places]
    assert not unknown, f"no test knows the sections {', '.join(unknown)}"
    for file, names in ELSEWHERE.items():
        there = (Path(__file__).parent / file).read_text()
        for name in names:
            key = name.rpartition(".")[2].removesuffix("tbsi").removesuffix("vipt")
            assert key in there, f"tests/{file} does not read {name}"


def checks_of_sections(d: dict) -> list:
    """The checks of all sections that a file holds and that are tested here."""

    def check(name: str, test):
        def on_section(d: dict) -> None:
            test(sections_of(d)[name])

        on_section.__name__ = test.__name__
        return on_section

    return [check(name, SECTIONS[name]) for name in sections_of(d) if name in SECTIONS]
