"""What the official trackers compute in training, beside ours: their losses, rates, elimination.

Numbers of the released functions are in tests/reference_tracking_ops.py; here are brute force and
closed forms, which need no file.
"""

import math
from unittest.mock import patch

import pytest
import torch
from elsewhere import Traffic

from gmmt import rates
from gmmt.trackers import heads
from gmmt.trackers.vit import ViT, keep_rate

STRIDE, CELLS = 8, 9
BOXES = torch.tensor(
    [
        [-60.0, -50, 60, 55],  # more points than are drawn
        [-10, -9, 9, 8],
        [20, 24, -14, -8],  # exchanged corners: another target
        [math.nan] * 4,  # no target
        [-1.5, -2, -1, 2],  # no point is in its ellipse
    ]
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def maps(n: int = len(BOXES)) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, distances and random numbers."""
    cls, loc = random(n, 2, CELLS, CELLS), random(n, 4, CELLS, CELLS, seed=1)
    return 4 * cls - 2, 2 * loc, random(n, CELLS, CELLS, seed=2)


def drawn() -> tuple[list[list], list[list]]:
    """Positive and negative points (item, y, x) of BOXES, in plain loops."""
    numbers, positive, negative = maps()[2], [], []
    for b, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
        inside, outside = [], []
        for i in range(CELLS):
            for j in range(CELLS):
                x, y = (j - CELLS // 2) * STRIDE, (i - CELLS // 2) * STRIDE
                if math.isnan(x1):
                    outside.append((numbers[b, i, j].item(), b, i, j))
                    continue
                dx, dy = (x - (x1 + x2) / 2) / (x2 - x1), (y - (y1 + y2) / 2) / (y2 - y1)
                if dx**2 + dy**2 < 1 / 16:
                    inside.append((numbers[b, i, j].item(), b, i, j))
                if dx**2 + dy**2 > 1 / 4:
                    outside.append((numbers[b, i, j].item(), b, i, j))
        if x2 < x1:
            negative += sorted(inside)[:16]
        elif math.isnan(x1):
            negative += sorted(outside)[:16]
        else:
            positive += sorted(inside)[:16]
            negative += sorted(outside)[:48]
    return [p[1:] for p in positive], [p[1:] for p in negative]


def mask_of(points: list) -> torch.Tensor:
    mask = torch.zeros(len(BOXES), CELLS, CELLS, dtype=torch.bool)
    for point in points:
        mask[point] = True
    return mask


def test_which_points_are_drawn():
    positive, negative = drawn()
    labelled = heads.labels(BOXES, CELLS, STRIDE)
    found = heads.drawn_points(*labelled, BOXES, maps()[2])
    assert torch.equal(found[0], mask_of(positive))
    assert torch.equal(found[1], mask_of(negative))
    counts = [m.sum((1, 2)).tolist() for m in (*labelled, *found)]
    assert counts[0][0] > 16 == counts[2][0]  # there was something to choose from
    assert counts[3][3] == 16
    assert counts[0][4] == 0


def test_other_numbers_draw_other_points_each_as_often():
    labelled = heads.labels(BOXES[:1], CELLS, STRIDE)
    times = sum(
        heads.drawn_points(*labelled, BOXES[:1], random(1, CELLS, CELLS, seed=s))[0].float()
        for s in range(2000)
    )
    share = times[labelled[0]] / 2000
    expected = torch.full_like(share, 16 / labelled[0].sum().item())
    torch.testing.assert_close(share, expected, rtol=0.1, atol=0)


def test_siambans_loss_as_released():
    cls, loc, numbers = maps()
    positive, negative = drawn()
    found = heads.track_loss(cls, loc, BOXES, STRIDE, numbers)
    surprise = -cls.log_softmax(1)

    def mean(values: list) -> float:
        return sum(values) / len(values)

    expected = 0.5 * mean([surprise[b, 1, i, j].item() for b, i, j in positive])
    expected += 0.5 * mean([surprise[b, 0, i, j].item() for b, i, j in negative])
    assert found["cls"].item() == pytest.approx(expected, rel=1e-5)
    lost = []
    for b, i, j in positive:
        x, y = (j - CELLS // 2) * STRIDE, (i - CELLS // 2) * STRIDE
        left, top, right, bottom = (loc[b, :, i, j].exp() * STRIDE).tolist()
        x1, y1, x2, y2 = BOXES[b].tolist()
        width = min(x + right, x2) - max(x - left, x1)
        height = min(y + bottom, y2) - max(y - top, y1)
        inter = width * height
        union = (left + right) * (top + bottom) + (x2 - x1) * (y2 - y1) - inter
        lost.append(1 - (inter + 1) / (union + 1))
    assert found["loc"].item() == pytest.approx(mean(lost), rel=1e-5)


def test_each_point_of_the_batch_counts_alike_or_each_image():
    cls, loc, numbers = maps()
    with patch.multiple(heads, POSITIVES=81, NEGATIVES=81):  # all points
        released = heads.track_loss(cls[:2], loc[:2], BOXES[:2], STRIDE, numbers[:2])
        alone = [
            heads.track_loss(*(v[i : i + 1] for v in (cls, loc, BOXES)), STRIDE, numbers[i : i + 1])
            for i in range(2)
        ]
    ours = heads.track_loss(cls[:2], loc[:2], BOXES[:2], STRIDE)["cls"]
    assert ours.item() == pytest.approx(sum(a["cls"].item() for a in alone) / 2, rel=1e-5)
    assert abs(released["cls"] - ours) > 1e-3


def test_a_batch_without_positives_has_a_loss():
    cls, loc, numbers = maps()
    cls.requires_grad_()
    loc.requires_grad_()
    loss = heads.track_loss(cls[2:], loc[2:], BOXES[2:], STRIDE, numbers[2:])
    assert loss["loc"] == 0
    (loss["cls"] + loss["loc"]).backward()
    assert cls.grad.isfinite().all()
    assert cls.grad.abs().max() > 0
    assert torch.equal(loc.grad, torch.zeros_like(loc))


@pytest.mark.parametrize("released", [False, True])
def test_losses_wait_for_nothing(released):
    def there(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    with Traffic(numbers=False) as traffic:
        numbers = there(3, 25, 25) if released else None
        heads.track_loss(there(3, 2, 25, 25), there(3, 4, 25, 25), there(3, 4), 8, numbers)
        score, size, offset = there(3, 1, 16, 16), there(3, 2, 16, 16), there(3, 2, 16, 16)
        heads.centre_loss(score, size, offset, there(3, 4), 16, released)
    assert not traffic.uploads
    assert not traffic.downloads
    assert not traffic.waits


def test_ostracks_box_is_that_of_the_highest_score():
    score = 0.1 + 0.8 * random(3, 1, 16, 16)
    size, offset = random(3, 2, 16, 16, seed=1), random(3, 2, 16, 16, seed=2)
    boxes = torch.tensor([[-40.0, -30, 50, 60], [0, 0, 30, 20], [-100, 20, -60, 70]])
    found = heads.centre_loss(score, size, offset, boxes, 16, best=True)
    l1 = giou = 0.0
    for b in range(3):
        y, x = divmod(score[b].flatten().argmax().item(), 16)
        cx, cy = (x + offset[b, 0, y, x]) / 16, (y + offset[b, 1, y, x]) / 16
        w, h = size[b, :, y, x]
        box = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        truth = boxes[b] / 256 + 0.5
        l1 += 5 * (box - truth).abs().mean() / 3
        giou += 2 * (1 - heads.overlap(box[None], truth[None])[1][0]) / 3
    torch.testing.assert_close(found["l1"], l1)
    torch.testing.assert_close(found["giou"], giou)
    ours = heads.centre_loss(score, size, offset, boxes, 16)
    assert torch.equal(found["focal"], ours["focal"])
    assert abs(found["l1"] - ours["l1"]) > 0.01


def test_the_share_of_tokens_that_stay():
    rate = [keep_rate(epoch, 4, 20, 0.6) for epoch in range(1, 25)]
    assert rate[:4] == [1.0] * 4
    assert rate[11] == pytest.approx(0.8)  # half way, at epoch 12
    assert rate[19:] == [0.6] * 5
    assert rate == sorted(rate, reverse=True)


@pytest.mark.parametrize(("rate", "same_as"), [(None, 0.5), (1.0, 1.0), (0.75, 0.75)])
def test_a_training_sets_the_share_in_all_blocks_that_eliminate(rate, same_as):
    options = {"dim": 16, "depth": 4, "heads": 2, "template": 32, "search": 64}
    backbone = ViT(**options, keep={1: 0.5, 2: 0.5})
    other = ViT(**options, keep={1: same_as, 2: same_as})
    other.load_state_dict(backbone.state_dict())
    backbone.keep_rate = rate
    z, x = random(2, 4, 16), random(2, 16, 16, seed=1)
    found, expected = backbone(z, x), other(z, x)
    assert torch.equal(found, expected)
    assert (found[0, 4:] == 0).all(1).sum() == {0.5: 12, 1.0: 0, 0.75: 7}[same_as]


def test_rates():
    assert [rates.stepped(epoch, 2) for epoch in range(4)] == [1, 1, 0.1, 0.1]
    shares = [rates.warmed_up(epoch, 8, 3, first=1 / 8, last=1 / 16) for epoch in range(8)]
    assert shares == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    assert rates.warmed_up(0, 1, 0, first=0.2, last=0.01) == 1  # nothing to rise or fall in
