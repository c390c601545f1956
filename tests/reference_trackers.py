"""Reference files on trackers: SiamBAN's head, TBSI, ViPT, and names in full-size files."""

import math
import re

import closed_form as cf
import torch
from reference_format import agree, call, described, inputs, load, only

from gmmt.trackers import heads
from gmmt.trackers.official import LEFTOVERS, kind_of, make_official
from gmmt.trackers.released_names import released_names
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.tbsi import TBSI, TBSILayer
from gmmt.trackers.vipt import Prompt, ViPT
from gmmt.trackers.vit import OSTrack


def same_names(module: torch.nn.Module) -> dict[str, str]:
    """The names of a part of a tracker, which the released code has, too."""
    return {key: key for key in module.state_dict()}


# --- SiamBAN --------------------------------------------------------------------------------------


@torch.no_grad()
def siamban_head(d: dict) -> None:
    for name, case in d.items():
        if name.startswith("DepthwiseBAN("):
            only(case, "order", "inputs", "cls", "loc")
            head = heads.DepthwiseBAN(*call(name)[1])
            load(head, same_names(head), case["order"])
            cls, loc = head(*inputs(case["inputs"]))
            agree(cls, case["cls"])
            agree(loc, case["loc"])
        else:
            only({name: case}, "xcorr_depthwise")
            only(case, "inputs", "output")
            agree(heads.xcorr_depthwise(*inputs(case["inputs"])), case["output"])


def one_modality(tracker: Siamese) -> dict[str, list[int]]:
    """Name and shape of all that the RGB tracker of a Siamese has."""
    found = {}
    for name, tensor in tracker.state_dict().items():
        part, modality, rest = (*name.split(".", 2), "")[:3]
        if modality == "rgb":
            found[f"{part}.{rest}"] = list(tensor.shape)
    return found


def siamban_keys(d: dict) -> None:
    """One modality of the supplement's Siamese tracker, and the sizes of its maps."""
    only(d, "meta", "keys")
    only(d["meta"], "source", "params", "parts", "shapes", "r50_l234_shapes")  # last: see below
    channels = int(re.search(r"neck \d+->(\d+)", d["meta"]["source"])[1])
    with torch.device("meta"):
        tracker = Siamese("resnet50", channels, channels, 127, 255).eval()
        rgb = {part: getattr(tracker, part)["rgb"] for part in ("backbone", "neck", "head")}
        search = rgb["backbone"](torch.zeros(1, 3, 255, 255))
        template = tracker.encode_template(torch.zeros(1, 4, 127, 127), "rgb")
        cls, loc = rgb["head"](template, rgb["neck"](search))
        shapes = {
            "backbone_search": search,
            "neck_search": rgb["neck"](search),
            "neck_template": template,
            "cls": cls,
            "loc": loc,
        }
    assert {k: list(x.shape) for k, x in shapes.items()} == d["meta"]["shapes"]
    parts = {part: sum(p.numel() for p in module.parameters()) for part, module in rgb.items()}
    assert parts == d["meta"]["parts"]
    assert sum(parts.values()) == d["meta"]["params"]
    theirs = {k.replace("neck.downsample.downsample.", "neck."): v for k, v in d["keys"].items()}
    assert one_modality(tracker) == theirs


WAITS_IN_SIAMBAN = (  # SiamBAN's other levels, and what weighs them
    "backbone.layer4.",
    "neck.downsample2.",
    "neck.downsample4.",
    "head.box2.",
    "head.box4.",
    "head.cls_weight",
    "head.loc_weight",
    "head.loc_scale",
)


def siamban_with_three_levels_keys(d: dict) -> None:
    """SiamBAN itself: its level of stage 3 is our tracker of one modality; the package has no other
    level yet.
    """
    only(d, "meta", "keys")
    with torch.device("meta"):
        ours = one_modality(Siamese("resnet50", 256, 256, 127, 255))
    theirs = {}
    for key, shape in d["keys"].items():
        if not key.startswith(WAITS_IN_SIAMBAN):
            key = key.replace("neck.downsample3.downsample.", "neck.")
            theirs[key.replace("head.box3.", "head.")] = shape
    assert ours == theirs


# --- TBSI and ViPT --------------------------------------------------------------------------------


def sizes(ctor: str) -> dict:
    """Our trackers' sizes for the released constructors that a file describes."""
    options = described(ctor)
    return {
        "hidden": options["NUM_CHANNELS"],
        "dim": options["embed_dim"],
        "depth": options["depth"],
        "heads": options["num_heads"],
        "patch": options["patch_size"],
    }


def filled(tracker, d: dict):
    """The tracker in evaluation mode with a file's closed-form weights, of which nothing but
    leftovers may be left over.
    """
    state = cf.state(d["order"])
    names = {k: name for k, name in released_names(tracker).items() if "stage2" not in k}
    assert set(state) - set(names.values()) == {k for k in state if k in LEFTOVERS}
    tracker.load_state_dict({k: state[name] for k, name in names.items()}, strict=False)
    ours = sum(p.numel() for k, p in tracker.named_parameters() if "stage2" not in k)
    assert ours + sum(state[k].numel() for k in state if k in LEFTOVERS) == d["params"]
    return tracker.eval()


def check_head(tracker, x: torch.Tensor, expected: dict) -> None:
    """The base head's maps, and the best cell's box in the official form: centre and size as shares
    of the patch.
    """
    maps = tracker.head["base"](None, x)
    for ours, name in zip(maps, ("score_map", "size_map", "offset_map"), strict=True):
        agree(ours, expected[name])
    score, boxes = tracker.decode(*maps)
    agree(best_box(score, boxes, tracker.crops.search)[:, None], expected["pred_boxes"])


def best_box(score: torch.Tensor, boxes: torch.Tensor, search: int) -> torch.Tensor:
    """The box [B, 4] (cx, cy, w, h) of the best cell, in shares of the patch from its corner, of
    scores [B, S, S] and boxes [B, 4, S, S].
    """
    cell = score.flatten(1).argmax(1)
    box = boxes.flatten(2)[range(len(cell)), :, cell] / search + 0.5
    return torch.cat([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], 1)


@torch.no_grad()
def tbsi_output(d: dict) -> None:
    only(d, "ctor", "params", "order", "inputs", "outputs", "fused", "fuse_conv_input")
    only(d["outputs"], "pred_boxes", "score_map", "size_map", "offset_map", "backbone_feat")
    tracker = filled(TBSI(**sizes(d["ctor"]), at=described(d["ctor"])["tbsi_loc"]), d)
    b = tracker.backbone
    z_rgb, z_tir, x_rgb, x_tir = inputs(d["inputs"])
    z = b.embed(torch.cat([z_rgb, z_tir]), b.pos_embed_z)
    x = b.embed(torch.cat([x_rgb, x_tir]), b.pos_embed_x)
    agree(torch.cat(b(z, x).chunk(2), 1), d["outputs"]["backbone_feat"])
    f_rgb, f_tir = tracker.map(b(z, x)).chunk(2)
    agree(torch.cat([f_rgb, f_tir], 1), d["fuse_conv_input"])
    fused = tracker.fuse(torch.cat([f_rgb, f_tir], 1))
    agree(fused, d["fused"])
    check_head(tracker, fused, d["outputs"])


@torch.no_grad()
def tbsi_layer_and_head(d: dict) -> None:
    for name, case in d.items():
        given, options = inputs(case["inputs"]), described(name)
        if name.startswith("TBSILayer("):
            only(case, "order", "inputs", "x_v", "x_i")
            layer = TBSILayer(options["dim"], options["num_heads"])
            load(layer, same_names(layer), case["order"])
            n_z, (x_v, x_i) = described(case["inputs"])["lens_z"], given
            z_v, new_v, z_i, new_i = layer(x_v[:, :n_z], x_v[:, n_z:], x_i[:, :n_z], x_i[:, n_z:])
            agree(torch.cat([z_v, new_v], 1), case["x_v"])
            agree(torch.cat([z_i, new_i], 1), case["x_i"])
        else:
            assert name.startswith("CenterPredictor("), f"no test knows {name}"
            only(case, "order", "inputs", "score_map_ctr", "bbox_cxcywh", "size_map", "offset_map")
            head = heads.CentreHead(options["inplanes"], options["channel"])
            load(head, same_names(head), case["order"])
            score, size, offset = head(None, *given)
            agree(score, case["score_map_ctr"])
            agree(size, case["size_map"])
            agree(offset, case["offset_map"])
            boxes = heads.decode_centre(size, offset, options["stride"])
            search = options["feat_sz"] * options["stride"]
            agree(best_box(score[:, 0], boxes, search), case["bbox_cxcywh"])


@torch.no_grad()
def vipt_output(d: dict) -> None:
    for name, case in d.items():
        if name.startswith("Prompt_block("):
            continue
        only({name: case}, "ce", "noce")
        only(case, "ctor", "params", "order", "inputs", "outputs", "removed_indexes_s")
        maps = ("score_map", "size_map", "offset_map")
        only(case["outputs"], "pred_boxes", *maps, "backbone_feat", "attn")
        options, seen = described(case["ctor"]), {}
        keep = {}
        if options["ce_loc"] is not None:
            keep = dict(zip(options["ce_loc"], options["ce_keep_ratio"], strict=True))
        tracker = filled(ViPT(**sizes(case["ctor"]), keep=keep), case)
        b = tracker.backbone
        if keep:
            middle = re.search(r"template tokens ([\d,]+)", case["inputs"])[1]
            b.middle = [int(token) for token in middle.split(",")]
        z, x = inputs(case["inputs"])
        z = b.embed_pair(z[:, :3], z[:, 3:], b.pos_embed_z)
        x = b.embed_pair(x[:, :3], x[:, 3:], b.pos_embed_x)
        b.blocks[-1].register_forward_hook(
            lambda module, given, out, seen=seen: seen.update(tokens=given[0], places=out[1])
        )
        f_rgb, f_tir, tokens = b(z, x)
        agree(tokens, case["outputs"]["backbone_feat"])
        agree(attention(b.blocks[-1], seen["tokens"]), case["outputs"]["attn"])
        removed = {int(k) for part in case["removed_indexes_s"] for k in part[0]}
        assert set(range(256)) - set(seen["places"][0].tolist()) == removed
        check_head(tracker, tracker.map(tokens), case["outputs"])
        assert torch.equal(b(z, x, fused=False)[0], f_rgb)
        assert torch.equal(b(z, x, fused=False)[1], f_tir)


def attention(block, tokens: torch.Tensor) -> torch.Tensor:
    """The attention map of a ViT's block, which the block itself never makes."""
    q, k, _ = block.attn["qkv"](block.norm1(tokens)).chunk(3, -1)
    q, k = (t.unflatten(-1, (block.heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)


@torch.no_grad()
def vipt_prompt_block(d: dict) -> None:
    (name,) = (name for name in d if name.startswith("Prompt_block("))
    case = d[name]
    only(case, "order", "inputs", "output")
    block = Prompt(described(name)["inplanes"], described(name)["hide_channel"])
    load(block, same_names(block), case["order"])
    stream, prompt = inputs(case["inputs"])[0].flatten(2).mT.chunk(2, -1)
    agree(block(stream, prompt).mT.unflatten(2, (4, 4)), case["output"])


# --- full-size files ------------------------------------------------------------------------------


def tracker_keys(d: dict) -> None:
    """Every name, shape and number of parameters of an official file, through the loader."""
    only(d, "meta", "keys")
    source, keys = d["meta"]["source"], d["keys"]
    # Every tensor shows one number many times, so that 4 GB of weights need no memory.
    state = {
        k: torch.ones(1).expand(shape) if shape else torch.tensor(0) for k, shape in keys.items()
    }
    for words, kind in (("OSTrack", "ostrack"), ("ViPT", "vipt"), ("TBSI", "tbsi")):
        if words in source:
            assert kind_of(state) == kind
    tracker = make_official(kind_of(state), state)
    assert (tracker.fusion is not None) == ("GMMT" in source)
    own = tracker.state_dict()
    assert not any(tensor.is_meta for tensor in own.values())
    names = released_names(tracker)
    if tracker.fusion is None:  # head "stage2" is new
        names = {k: name for k, name in names.items() if not k.startswith("head.stage2.")}
    ours = {name: list(own[k].shape) for k, name in names.items()}
    assert ours | {k: keys[k] for k in tracker.leftovers} == keys
    assert not ours.keys() & set(tracker.leftovers)
    parameters = [p.numel() for k, p in tracker.named_parameters() if k in names]
    parameters += [math.prod(keys[k]) for k in tracker.leftovers if k.startswith("backbone.")]
    assert sum(parameters) == d["meta"]["params"]
    if isinstance(tracker, OSTrack):  # with and without candidate elimination
        with torch.device("meta"):
            assert list(OSTrack(keep={}).state_dict()) == list(own)
