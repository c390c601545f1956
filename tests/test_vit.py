"""The one-stream trackers: their parts, their training, and tracking with them. That they are equal
to the official ones: test_reference.py.
"""

import inspect
import math

import numpy as np
import pytest
import torch

from gmmt import tracking
from gmmt.config import Data, Plan
from gmmt.data import synthetic
from gmmt.data.pairs import Pairs
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet
from gmmt.trackers import heads
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import ELIMINATION, OSTrack, ViT
from gmmt.training import Stage, fit

TINY = {"hidden": 32, "dim": 32, "depth": 3, "heads": 2, "patch": 4, "template": 32, "search": 64}
MAKE = {
    "ostrack": lambda **options: OSTrack(**{"keep": {1: 0.7}} | TINY | options),
    "vipt": lambda **options: ViPT(**{"keep": {1: 0.7}} | TINY | options),
    "tbsi": lambda **options: TBSI(**{"at": (0, 1)} | TINY | options),
}


@torch.no_grad()
def test_vipt_without_prompts_is_the_ostrack_that_it_inherits():
    old, new, crops = tiny("ostrack").eval(), tiny("vipt").eval(), torch.rand(2, 4, 64, 64) * 255
    for prompt in new.backbone.prompt_blocks:
        prompt.conv1x1.weight.zero_(), prompt.conv1x1.bias.zero_()
    old.backbone.pos_embed_x.normal_(), old.head["rgb"].conv5_ctr.bias.fill_(1)
    new.inherit(old)
    answers = [
        t.search(t.encode_template(crops[..., :32, :32], m), crops, m)
        for t, m in ((old, "rgb"), (new, "base"))
    ]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*answers, strict=True))


def test_too_few_blocks_are_refused():
    with pytest.raises(SettingError, match="need more than 3 blocks"):
        TBSI(at=(0, 3), **TINY)
    with pytest.raises(SettingError, match=r"keep maps blocks 0\.\.2 to shares .*, not 3 to 0\.7"):
        OSTrack(**TINY)  # the official blocks
    with pytest.raises(SettingError, match=r"not 1 to 0\.0"):
        ViPT(**TINY, keep={1: 0})


def test_blocks_may_be_named_as_yaml_and_json_name_them():
    for keep in ({1: 0.7, 2: 1}, {"1": 0.7, "2": 1}, [[1, 0.7], ["2", 1]]):
        assert ViPT(**TINY, keep=keep).backbone.keep == {1: 0.7, 2: 1.0}
    for at in ((0, 2), [0, 2], ["0", "2"]):
        assert TBSI(**TINY, at=at).backbone.bridged == (0, 2)


@pytest.mark.parametrize("kind", [OSTrack, ViPT, TBSI])
def test_constructors_tell_all_their_arguments(kind):
    parameters = inspect.signature(kind).parameters.values()
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    official = {p.name: p.default for p in parameters}
    assert official["template"], official["search"] == (128, 256)
    assert official["keep"] == ({} if kind is TBSI else ELIMINATION)
    assert set(kind.reading) == set(vars(tracking.Reading()))
    assert (kind.reading["clip"], kind.reading["margin"]) == ("corners", 10)


@torch.no_grad()
def test_elimination_keeps_what_the_middle_looks_at_most():
    """Against the whole attention map of one block, by a loop."""
    torch.manual_seed(0)
    net = ViT(16, 1, 2, patch=4, template=12, search=16, keep={0: 0.3})
    tokens, n_z = torch.randn(2, 9 + 16, 16), 9
    block = net.blocks[0]
    q, k, _ = block.attn["qkv"](block.norm1(tokens)).chunk(3, -1)
    expected = []
    for b in range(2):
        seen = torch.zeros(16)
        for head in (slice(8), slice(8, 16)):
            row = q[b, 4, head] @ k[b, :, head].T / math.sqrt(8)  # token 4 of 3 x 3: the middle
            seen += row.softmax(0)[n_z:]
        expected.append(sorted(range(16), key=lambda i, seen=seen: -seen[i])[:5])  # ceil(0.3 * 16)
    places = torch.arange(16).expand(2, -1)
    left, places = net.layer(0, tokens, places)
    assert places.tolist() == expected
    spread = net.spread(left, places)
    assert torch.equal(spread[:, :n_z], left[:, :n_z])
    for b in range(2):
        for place in range(16):
            token = spread[b, n_z + place]
            if place in expected[b]:
                assert torch.equal(token, left[b, n_z + expected[b].index(place)])
            else:
                assert not token.any()


# --- patches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ostrack", "vipt", "tbsi"])
def test_patches_are_as_large_as_the_area_wants_and_black_outside(kind):
    rule = tiny(kind).crops
    assert (rule.template, rule.search, rule.whole_pixels) == (32, 64, "no")
    wh = torch.tensor([[20.0, 20], [40, 10]])
    assert rule.side(wh).tolist() == [40, 40]
    assert rule.scale(wh).tolist() == [40 / 32, 40 / 32]
    frame = torch.full((1, 4, 20, 20), 100.0)
    patch = rule.cut(frame, torch.tensor([[0.0, 10.0]]), torch.tensor([[16.0, 4]]), 32)
    assert not patch[..., :15].any()  # a square of 16 pixels, half of it left of the frame
    torch.testing.assert_close(patch[..., 17:], torch.full((1, 4, 32, 15), 100.0))


@pytest.mark.parametrize("kind", ["ostrack", "vipt", "tbsi"])
def test_images_have_imagenets_mean_and_spread(kind):
    crops = torch.tensor([255.0, 0, 51, 102])[None, :, None, None].expand(1, 4, 8, 8)
    rgb, tir = tiny(kind).images(crops)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    assert rgb[0, :, 3, 4].tolist() == pytest.approx(expected, rel=1e-5)
    expected = [(0.4 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.4 - 0.406) / 0.225]
    assert tir[0, :, 3, 4].tolist() == pytest.approx(expected, rel=1e-4)


def test_tbsis_own_mean_and_spread_of_thermal_images():
    tracker = tiny("tbsi", tir_mean=[0.449] * 3, tir_std=[0.226] * 3)
    rgb, tir = tracker.images(torch.full((1, 4, 8, 8), 102.0))
    assert rgb[0, 0, 0, 0].item() == pytest.approx((0.4 - 0.485) / 0.229, rel=1e-5)
    assert tir[0, :, 0, 0].tolist() == pytest.approx(3 * [(0.4 - 0.449) / 0.226], rel=1e-5)


# --- head, labels, loss ---------------------------------------------------------------------------


def test_decoding_a_centre():
    size, offset = torch.full((1, 2, 4, 4), 0.25), torch.zeros(1, 2, 4, 4)
    offset[0, :, 2, 1] = torch.tensor([0.5, -0.25])
    box = heads.decode_centre(size, offset, 16)[0, :, 2, 1]
    x, y = (1 + 0.5) * 16 - 32, (2 - 0.25) * 16 - 32
    assert box.tolist() == [x - 8, y - 8, x + 8, y + 8]


def test_labels_are_cornernets_gaussians():
    boxes = torch.tensor([[-40.0, -24, 40, 24], [3, 3, 5, 5], [float("nan")] * 4])
    heat = heads.centre_labels(boxes, 16, 8)
    w, h, overlap = 10, 6, 0.7
    cases = [
        (1, w + h, w * h * (1 - overlap) / (1 + overlap)),
        (4, 2 * (w + h), (1 - overlap) * w * h),
    ]
    cases.append((4 * overlap, -2 * overlap * (w + h), (overlap - 1) * w * h))
    radius = int(min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases))
    for i in range(16):
        for j in range(16):
            near = max(abs(i - 8), abs(j - 8)) <= radius
            value = (
                math.exp(-((i - 8) ** 2 + (j - 8) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
                if near
                else 0
            )
            assert heat[0, i, j] == pytest.approx(value, abs=1e-6)
    assert heat[1].sum() == 1  # smaller than a cell
    assert (
        heat[1, 8, 8] == 1
    )  # (4, 4) is nearer to the corner (0, 0) than to (8, 8): rounded half to even
    assert not heat[2].any()


def test_the_centre_loss_is_least_for_the_right_answer_and_counts_each_image_alike():
    boxes = torch.tensor([[-18.0, -10, 10, 14], [float("nan")] * 4, [-6.0, -30, 26, 30]])
    heat = heads.centre_labels(boxes, 16, 4)
    score = heat[:, None].clamp(1e-4, 1 - 1e-4)
    wh = (boxes[:, 2:] - boxes[:, :2]).nan_to_num(1) / 64
    size = wh[:, :, None, None].expand(-1, -1, 16, 16)
    offset = torch.tensor([[0, 0.5], [0, 0], [0.5, 0]])[:, :, None, None].expand(
        -1, -1, 16, 16
    )  # centres (-4, 2) and (10, 0)
    right = heads.centre_loss(score, size, offset, boxes, 4)
    assert right["l1"] < 1e-5
    assert right["giou"] < 1e-5
    wrong = heads.centre_loss(score.flip(3), size * 1.5, offset, boxes, 4)
    assert all(wrong[name] > 3 * right[name] + 0.1 for name in right)
    alone = [
        heads.centre_loss(*(v[i : i + 1] for v in (score, size, offset, boxes)), 4)
        for i in range(3)
    ]
    for name, value in right.items():
        assert value == pytest.approx(sum(a[name].item() for a in alone) / 3, rel=1e-5)
    assert alone[1]["l1"] == alone[1]["giou"] == 0


def test_the_box_is_read_at_the_true_centre():
    boxes, draw = torch.tensor([[-18.0, -10, 10, 14]]), torch.Generator().manual_seed(0)
    score, size, offset = (torch.rand(1, n, 16, 16, generator=draw) for n in (1, 2, 2))
    first = heads.centre_loss(score, size, offset, boxes, 4)
    elsewhere = torch.ones(16, 16, dtype=torch.bool)
    elsewhere[8, 7] = (
        False  # the centre (-4, 2), in cells from the corner (7, 8.5), which is rounded to even
    )
    for maps in (score, size, offset):
        maps[..., elsewhere] = torch.rand(int(elsewhere.sum()), generator=draw)
    second = heads.centre_loss(score, size, offset, boxes, 4)
    assert (first["l1"], first["giou"]) == (second["l1"], second["giou"])
    assert first["focal"] != second["focal"]
    size[..., 8, 7] *= 0.5
    assert heads.centre_loss(score, size, offset, boxes, 4)["l1"] != first["l1"]


def test_overlaps():
    a, b = (
        torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]]),
        torch.tensor([[1.0, 1, 3, 3], [2, 0, 3, 1]]),
    )
    iou, giou = heads.overlap(a, b)
    assert iou.tolist() == pytest.approx([1 / 7, 0])
    assert giou.tolist() == pytest.approx([1 / 7 - 2 / 9, -1 / 3])


# --- sizes ----------------------------------------------------------------------------------------


def test_full_size_maps():
    with torch.device("meta"):
        trackers = OSTrack(), ViPT(), TBSI()
        for t in trackers:
            mode = "rgb" if isinstance(t, OSTrack) else "base"
            z = t.encode_template(torch.zeros(2, 4, 128, 128), mode)
            x = t.encode(z, torch.zeros(2, 4, 256, 256), mode)
            assert list(x.shape) == [2, 768, 16, 16]
            assert [list(m.shape) for m in t.head[mode](z, x)] == [
                [2, c, 16, 16] for c in (1, 2, 2)
            ]


# --- training and tracking ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    videos = synthetic.benchmark("train", 6, 8)
    frames = np.stack([v.frames()[::4] for v in videos])
    return Pairs(frames, np.stack([v.boxes[::4] for v in videos]), tiny("vipt").crops, Data())


def tiny(kind, variant=None, **options):
    torch.manual_seed(0)
    tracker = MAKE[kind](**options)
    if variant:
        tracker.fusion = make_fusion(variant, UNet(32, 3, inner=8, groups=4), 32, track_t="last")
    return tracker


@pytest.mark.parametrize(
    ("kind", "variant"), [("vipt", None), ("vipt", "DM"), ("tbsi", None), ("tbsi", "DM")]
)
def test_stage_2_cuts_its_loss_on_one_batch_fivefold_and_moves_nothing_else(
    kind, variant, pairs, tmp_path
):
    options = {"keep": {}} if kind == "vipt" else {}  # an untrained tracker eliminates the target
    tracker = tiny(kind, variant, **options)
    one = pairs.batch(4, (0, 0, 0))
    before = {k: v.clone() for k, v in tracker.state_dict().items()}

    class OneBatch:
        def batches(self, key, first, last, *_):
            return (one for _ in range(first, last))

    history = fit(
        Stage(tracker, "2", Plan(90, batch=4, rate=2e-2, last=0.1)),
        OneBatch(),
        tmp_path / "x.safetensors",
        seed=0,
        config={},
    )
    total = np.array([history[name] for name in ("focal", "l1", "giou")]).sum(0)
    assert total[-5:].mean() < total[0] / 5
    for name, value in tracker.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == (name.startswith(("head.stage2", "fusion.network"))), name


LEARNABLE = {
    ("ostrack", "1.1 rgb"): ("backbone.", "head.rgb."),
    ("vipt", "1.2"): ("backbone.patch_embed_prompt.", "backbone.prompt_"),
    ("tbsi", "1.2"): ("backbone.", "fuse.", "head.base."),
}


@pytest.mark.parametrize(("kind", "stage"), LEARNABLE)
def test_earlier_stages_train_what_they_should(kind, stage, pairs, tmp_path):
    tracker = tiny(kind)
    before = {k: v.clone() for k, v in tracker.state_dict().items()}
    # As long as a box holds the whole target, no loss depends on the offset.
    plan = Plan(30, batch=8)
    fit(Stage(tracker, stage, plan), pairs, tmp_path / "x.safetensors", seed=0, config={})
    for name, value in tracker.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(LEARNABLE[kind, stage]), name
    with pytest.raises(
        SettingError, match=f"unknown stage '1.1 tir': {type(tracker).__name__} has"
    ):
        Stage(tracker, "1.1 tir", plan)


@pytest.mark.parametrize("kind", MAKE)
def test_tracking_goes_frame_by_frame_whatever_runs_beside(kind):
    tracker, mode = (tiny(kind), "rgb") if kind == "ostrack" else (tiny(kind, "DM"), "stage2")
    videos = synthetic.benchmark("val", 3, 5)
    together = tracking.track_all(tracker, mode, videos)
    for box, (alone, _) in zip(
        together[videos[1].name][0], tracking.track(tracker, mode, videos[1]), strict=True
    ):
        np.testing.assert_allclose(alone, box, atol=1e-2)
    assert not np.allclose(together[videos[0].name][0], together[videos[1].name][0], atol=1)
