"""The one-stream trackers: equal to the official ones, trained and tracked with like the Siamese
one.
"""

import json
import math

import closed_form as cf
import numpy as np
import pytest
import torch
from released import official_name
from test_reference import agree

from gmmt import tracking
from gmmt.data import synthetic
from gmmt.data.crops import area_side, crop
from gmmt.data.pairs import Pairs
from gmmt.errors import SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet
from gmmt.trackers import heads
from gmmt.trackers.official import is_leftover
from gmmt.trackers.tbsi import TBSI, TBSILayer
from gmmt.trackers.vipt import Prompt, ViPT
from gmmt.trackers.vit import OSTrack
from gmmt.training import Plan, Stage, fit

SMALL = {"dim": 48, "depth": 4, "heads": 4}  # the reference's, at full-size crops
TINY = {"hidden": 32, "dim": 32, "depth": 3, "heads": 2, "patch": 4, "template": 32, "search": 64}
MAKE = {
    "ostrack": lambda **options: OSTrack(**{"keep": {1: 0.7}} | TINY | options),
    "vipt": lambda **options: ViPT(**{"keep": {1: 0.7}} | TINY | options),
    "tbsi": lambda **options: TBSI(**{"at": (0, 1)} | TINY | options),
}


@pytest.fixture
def file(reference):
    return lambda name: json.loads((reference / f"{name}.json").read_text())


def filled(tracker, order):
    """The tracker in evaluation mode with the closed-form weights of a reference file; nothing may
    be left over but leftovers.
    """
    state, ours = (
        cf.state(order),
        {k: official_name(k) for k in tracker.state_dict() if "stage2" not in k},
    )
    assert set(state) - set(ours.values()) == {k for k in state if is_leftover(k)}
    tracker.load_state_dict({k: state[name] for k, name in ours.items()}, strict=False)
    return tracker.eval()


def check_head(tracker, x, expected):
    """The base head's maps, and the best cell's box in the official form: centre and size as shares
    of the patch.
    """
    answer = tracker.head["base"](None, x)
    for map, name in zip(answer, ("score_map", "size_map", "offset_map"), strict=True):
        agree(map, expected[name])
    score, boxes = tracker.decode(*answer)
    box = boxes.flatten(2)[:, :, score.flatten().argmax()] / tracker.search_size + 0.5
    agree(
        torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1)[None],
        expected["pred_boxes"],
    )


@torch.no_grad()
def test_tbsi_is_the_official_one(file):
    d = file("tbsi_small")
    tracker = filled(TBSI(32, at=(1, 2), **SMALL), d["order"])
    b = tracker.backbone
    z = b.embed(torch.cat([cf.given((1, 3, 128, 128), k) for k in (60, 61)]), b.pos_embed_z)
    x = b.embed(torch.cat([cf.given((1, 3, 256, 256), k) for k in (62, 63)]), b.pos_embed_x)
    agree(torch.cat(b(z, x).chunk(2), 1), d["outputs"]["backbone_feat"])
    f_rgb, f_tir = tracker.map(b(z, x)).chunk(2)
    agree(torch.cat([f_rgb, f_tir], 1), d["fuse_conv_input"])
    fused = tracker.fuse(torch.cat([f_rgb, f_tir], 1))
    agree(fused, d["fused"])
    check_head(tracker, fused, d["outputs"])


@torch.no_grad()
def test_tbsi_layer_and_head(file):
    layer, head = file("tbsi_layer_and_head").values()
    module = TBSILayer(16, 2)
    module.load_state_dict(cf.state(layer["order"]))
    x_v, x_i = cf.given((1, 320, 16), 70), cf.given((1, 320, 16), 71)
    z_v, new_v, z_i, new_i = module(x_v[:, :64], x_v[:, 64:], x_i[:, :64], x_i[:, 64:])
    agree(torch.cat([z_v, new_v], 1), layer["x_v"])
    agree(torch.cat([z_i, new_i], 1), layer["x_i"])
    module = heads.CentreHead(8, 32)
    module.load_state_dict(cf.state(head["order"]))
    score, size, offset = module.eval()(None, cf.given((2, 8, 4, 4), 72))
    for map, name in ((score, "score_map_ctr"), (size, "size_map"), (offset, "offset_map")):
        agree(map, head[name])
    boxes = (
        heads.decode_centre(size, offset, 16).flatten(2)[range(2), :, score.flatten(1).argmax(1)]
        / 64
        + 0.5
    )
    agree(
        torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1),
        head["bbox_cxcywh"],
    )


@pytest.mark.parametrize(("case", "keep"), [("noce", {}), ("ce", {1: 0.7, 2: 0.7})])
@torch.no_grad()
def test_vipt_is_the_official_one(file, case, keep):
    d = file("vipt_small")[case]
    tracker = filled(ViPT(32, keep=keep, **SMALL), d["order"])
    b, seen = tracker.backbone, {}
    if keep:
        b.watch = [27, 28, 35, 36]
    z, x = cf.given((1, 6, 128, 128), 80), cf.given((1, 6, 256, 256), 81)
    z, x = (
        b.embed_pair(z[:, :3], z[:, 3:], b.pos_embed_z),
        b.embed_pair(x[:, :3], x[:, 3:], b.pos_embed_x),
    )
    b.blocks[-1].register_forward_hook(
        lambda module, given, out: seen.update(tokens=given[0], places=out[1])
    )
    *_, tokens = b(z, x)
    agree(tokens, d["outputs"]["backbone_feat"])
    q, k, _ = b.blocks[-1].attn["qkv"](b.blocks[-1].norm1(seen["tokens"])).chunk(3, -1)
    q, k = (t.unflatten(-1, (4, 12)).transpose(1, 2) for t in (q, k))
    agree((q @ k.mT / math.sqrt(12)).softmax(-1), d["outputs"]["attn"])
    assert set(range(256)) - set(seen["places"][0].tolist()) == {
        int(k) for part in d["removed_indexes_s"] for k in part[0]
    }
    f_rgb, f_tir, fused = b(z, x)
    check_head(tracker, tracker.map(fused), d["outputs"])
    assert all(
        torch.equal(a, c) for a, c in zip(b(z, x, fused=False)[:2], (f_rgb, f_tir), strict=True)
    )


@torch.no_grad()
def test_vipt_prompt_block(file):
    d = next(v for k, v in file("vipt_small").items() if k.startswith("Prompt_block"))
    block = Prompt(16)
    block.load_state_dict(cf.state(d["order"]))
    stream, prompt = cf.given((2, 32, 4, 4), 82).flatten(2).mT.chunk(2, -1)
    agree(block(stream, prompt).mT.unflatten(2, (4, 4)), d["output"])


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
    with pytest.raises(ValueError, match="need more than 3 blocks"):
        TBSI(at=(0, 3), **TINY)


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


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ostrack_vitb256", OSTrack),
        ("ostracknoce_vitb256", lambda: OSTrack(keep={})),
        ("vipt_deep_rgbt", ViPT),
        ("tbsi_track", TBSI),
    ],
)
def test_full_size_names_and_shapes(file, name, make):
    d = file(f"{name}_full_keys")
    with torch.device("meta"):
        tracker = make()
    ours = {
        official_name(k): list(v.shape)
        for k, v in tracker.state_dict().items()
        if "stage2" not in k
    }
    leftovers = {k: shape for k, shape in d["keys"].items() if is_leftover(k)}
    assert ours | leftovers == d["keys"]
    assert not ours.keys() & leftovers.keys()
    own = sum(p.numel() for n, p in tracker.named_parameters() if "stage2" not in n)
    assert own + sum(math.prod(s) for s in leftovers.values()) == d["meta"]["params"]


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
    return Pairs(
        np.stack([v.frames()[::4] for v in videos]),
        np.stack([v.boxes[::4] for v in videos]),
        32,
        64,
        like=ViPT,
    )


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
        def batch(self, *_, **__):
            return one

    history = fit(
        Stage(tracker, "2"),
        Plan(90, batch=4, rate=2e-2, last=0.1),
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
    history = fit(
        Stage(tracker, stage),
        Plan(30, batch=8),
        pairs,
        tmp_path / "x.safetensors",
        seed=0,
        config={},
    )
    assert np.isfinite(history["loss"]).all()
    for name, value in tracker.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(LEARNABLE[kind, stage]), name
    with pytest.raises(
        SettingError, match=f"unknown stage '1.1 tir': {type(tracker).__name__} has"
    ):
        Stage(tracker, "1.1 tir")


@pytest.mark.parametrize("kind", MAKE)
def test_tracking_goes_frame_by_frame_whatever_runs_beside(kind):
    tracker, mode = (tiny(kind), "rgb") if kind == "ostrack" else (tiny(kind, "DM"), "stage2")
    videos = synthetic.benchmark("val", 3, 5)
    together = tracking.track(tracker, mode, videos)
    alone = tracking.track(tracker, mode, videos[1:2])
    np.testing.assert_allclose(alone[videos[1].name], together[videos[1].name], atol=1e-2)
    assert all(np.isfinite(b).all() for b in together.values())


def test_ostracks_way_to_read_a_score_map():
    tracker, search = tiny("ostrack"), tracking.Search(**OSTrack.reading)
    score, size, offset = (
        torch.full((1, 1, 16, 16), 1e-3),
        torch.full((1, 2, 16, 16), 0.25),
        torch.zeros(1, 2, 16, 16),
    )
    score[0, 0, 6, 10] = 0.9
    size[0, :, 6, 10] = torch.tensor([0.5, 0.125])
    center, wh = torch.tensor([[60.0, 60.0]]), torch.tensor([[16.0, 16.0]])
    new, grown = tracking.step(
        *tracker.decode(score, size, offset), center, wh, tracker, search, (128, 128)
    )
    torch.testing.assert_close(
        new, center + torch.tensor([[(10 * 4 - 32.0), 6 * 4 - 32]])
    )  # a template of 32 pixels shows 32
    torch.testing.assert_close(grown, torch.tensor([[32.0, 8.0]]))  # at once
    score[0, 0, 0, 0] = 1.0
    new, _ = tracking.step(
        *tracker.decode(score, size, offset), center, wh, tracker, search, (128, 128)
    )
    torch.testing.assert_close(
        new, center + torch.tensor([[(10 * 4 - 32.0), 6 * 4 - 32]])
    )  # the window is near 0 in the corner


def test_ostracks_crops_are_as_large_as_the_targets_area_wants_and_black_outside():
    assert area_side(torch.tensor([[20.0, 20], [40, 10]])).tolist() == [40, 40]
    frame = torch.full((1, 4, 20, 20), 100.0)
    patch = crop(frame, torch.tensor([[0.0, 10.0]]), torch.tensor([20.0]), 20, fill=0.0)
    torch.testing.assert_close(patch[..., :10], torch.zeros(1, 4, 20, 10), atol=1e-3, rtol=0)
    torch.testing.assert_close(patch[..., 10:], torch.full((1, 4, 20, 10), 100.0))
