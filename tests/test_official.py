"""Official weight files: read exactly, matched by name, refused in words, and never run."""

import argparse
import os
import re
import sys
from collections import OrderedDict
from pathlib import Path

import closed_form as cf
import numpy as np
import pytest
import torch

import gmmt
from gmmt.errors import SettingError, WeightsError
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.official import load_official
from gmmt.trackers.released_names import released_names
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import ELIMINATION, OSTrack

TINY = {"hidden": 16, "dim": 16, "depth": 3, "heads": 2, "patch": 4, "template": 16, "search": 32}
OPTIONS = {
    "ostrack": TINY | {"keep": {1: 0.7}},
    "vipt": TINY | {"keep": {1: 0.7}},
    "tbsi": TINY | {"at": (0, 1)},
}
CLASSES = {"ostrack": OSTrack, "vipt": ViPT, "tbsi": TBSI}


def order(kind, gmmt_of=None, options=None):
    """[k, key, shape] of a tiny tracker's official state, leftovers included."""
    with torch.device("meta"):
        tracker = CLASSES[kind](**(options or OPTIONS[kind]))
        if gmmt_of:
            tracker.fusion = torch.nn.ModuleDict({"network": gmmt_of})
    names = released_names(tracker)
    shapes = {
        names[key]: list(value.shape)
        for key, value in tracker.state_dict().items()
        if gmmt_of or "stage2" not in key
    }
    shapes["backbone.cls_token"] = [1, 1, 16]
    shapes["backbone.pos_embed"] = [1, 197, 16]
    if gmmt_of:
        shapes["lddiffuse.betas"] = [1000]
    return [[k, key, shape] for k, (key, shape) in enumerate(shapes.items())]


def save(path, state, **extra):
    torch.save({"epoch": 15, "net": state, **extra}, path)
    return path


def has_the_tensors_of(tracker, state, without=()):
    """Whether each tensor of the tracker is the state's of the same released name, and each of the
    state, but for the tracker's leftovers, is in the tracker.
    """
    own = tracker.state_dict()
    names = {k: name for k, name in released_names(tracker).items() if not k.startswith(without)}
    assert set(state) - set(names.values()) == set(tracker.leftovers)
    return all(torch.equal(own[k], state[name].to(own[k])) for k, name in names.items())


@pytest.mark.parametrize("kind", CLASSES)
def test_a_closed_form_state_loads_with_nothing_missing(kind, tmp_path):
    state = cf.state(order(kind))
    tracker = gmmt.load_official(
        kind, save(tmp_path / "w.pth.tar", OrderedDict(state)), **OPTIONS[kind]
    )
    assert has_the_tensors_of(tracker, state, without=("head.stage2.",))
    assert set(tracker.leftovers) == {"backbone.cls_token", "backbone.pos_embed"}
    assert not any(v.is_meta for v in tracker.state_dict().values())
    assert not tracker.training
    crops, mode = torch.rand(2, 4, 32, 32) * 255, "rgb" if kind == "ostrack" else "stage2"
    with torch.no_grad():
        answer = tracker.search(tracker.encode_template(crops[..., :16, :16], mode), crops, mode)
    assert all(a.isfinite().all() for a in answer)


def test_the_package_has_the_loader_and_refuses_other_names():
    assert gmmt.load_official is load_official
    with pytest.raises(AttributeError, match="module 'gmmt' has no attribute 'load_offical'"):
        gmmt.load_offical  # noqa: B018


# --- GMMT's network, by name ----------------------------------------------------------------------


def networks():
    """The released U in both kinds, as small as a tiny TBSI (16 channels) can take it."""
    return {
        "uvit": UViT(16, 1, 2, 24, size=8, form="released"),
        "unet": UNet(16, 3, 2, groups=4, form="released"),
    }


def test_gmmt_on_tbsi_loads_with_its_head_and_samples(tmp_path):
    state = cf.state(order("tbsi", networks()["uvit"]))
    tracker = load_official("tbsi", save(tmp_path / "w.pth.tar", state), **OPTIONS["tbsi"])
    assert has_the_tensors_of(tracker, state)
    assert set(tracker.leftovers) == {"backbone.cls_token", "backbone.pos_embed", "lddiffuse.betas"}
    crops = torch.rand(1, 4, 32, 32) * 255
    with torch.no_grad():
        score, *_ = tracker.search(
            tracker.encode_template(crops[..., :16, :16], "stage2"), crops, "stage2", steps=2
        )
    assert score.isfinite().all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("in_blocks.0.norm1.weight", "in_blocks.0.norm2.weight"),
        ("in_blocks.0.attn.qkv.weight", "out_blocks.0.attn.qkv.weight"),
        ("norm2.running_mean", "norm2.running_var"),
    ],
)
def test_entries_of_one_shape_in_another_order_go_to_their_names(first, second, tmp_path):
    state = cf.state(order("tbsi", networks()["uvit"]))
    first, second = f"lddiffuse.unet.{first}", f"lddiffuse.unet.{second}"
    assert state[first].shape == state[second].shape
    assert not torch.equal(state[first], state[second])
    swapped = {first: second, second: first}
    path = save(tmp_path / "w.pth", {swapped.get(k, k): state[swapped.get(k, k)] for k in state})
    tracker = load_official("tbsi", path, **OPTIONS["tbsi"])
    assert has_the_tensors_of(tracker, state)


def test_a_file_in_any_order_loads_alike(tmp_path):
    state = cf.state(order("tbsi", networks()["uvit"]))
    path = save(tmp_path / "w.pth", dict(sorted(state.items(), reverse=True)))
    assert has_the_tensors_of(load_official("tbsi", path, **OPTIONS["tbsi"]), state)


def test_another_name_in_u_is_refused_by_name(tmp_path):
    state = cf.state(order("tbsi", networks()["uvit"]))
    state["lddiffuse.unet.sideways"] = state.pop("lddiffuse.unet.norm.bias")
    with pytest.raises(WeightsError) as error:
        load_official("tbsi", save(tmp_path / "w.pth", state), **OPTIONS["tbsi"])
    assert re.search('Missing key.*: "fusion.network.norm.bias"', str(error.value))
    assert re.search('Unexpected.*: "lddiffuse.unet.sideways"', str(error.value))
    state["lddiffuse.alphas"] = state.pop("lddiffuse.unet.sideways")
    with pytest.raises(WeightsError, match=r'Unexpected.*: "lddiffuse.alphas"'):
        load_official("tbsi", save(tmp_path / "w.pth", state), **OPTIONS["tbsi"])
    state = {k: v for k, v in state.items() if not k.startswith("lddiffuse.unet.down.")}
    with pytest.raises(
        WeightsError, match=r"no U of GMMT has the sizes in the file: 'down.weight'"
    ):
        load_official("tbsi", save(tmp_path / "w.pth", state), **OPTIONS["tbsi"])


@pytest.mark.parametrize("kind", ["unet", "uvit"])
def test_names_go_both_ways(kind):
    network = networks()[kind]
    there = released_names(network)
    assert list(there) == list(network.state_dict())
    assert len(set(there.values())) == len(there)


def test_names_are_the_released_ones():
    """Some names by hand; tests/reference has all names of the full sizes."""
    unet, uvit = released_names(networks()["unet"]), released_names(networks()["uvit"])
    assert unet["inlet.weight"] == "downs.0.weight"
    assert unet["down.0.shift.bias"] == "downs.1.res_block.noise_func.noise_func.0.bias"
    assert unet["down.2.attention.qkv.weight"] == "downs.3.attn.qkv.weight"
    assert unet["down.1.conv.weight"] == "downs.2.conv.weight"
    assert unet["outlet.1.norm.weight"] == "final_conv2.block.0.weight"
    assert uvit["position"] == "pos_embed"
    assert uvit["middle.mlp.2.weight"] == "mid_block.mlp.fc2.weight"
    assert uvit["norm_out.running_var"] == "norm2.running_var"


def test_what_has_no_released_name_is_refused():
    network = networks()["unet"]
    network.sideways = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"'sideways.weight' has no name in the released code"):
        released_names(network)
    with pytest.raises(WeightsError, match="expected a UNet, a UViT or a tracker with a ViT"):
        released_names(Siamese())


def test_official_trackers_get_their_images_as_they_did(tmp_path):
    path = save(tmp_path / "w.pth", cf.state(order("tbsi")))
    tracker = load_official("tbsi", path, **OPTIONS["tbsi"])
    assert tracker.crops.whole_pixels == "ostrack"
    _, tir = tracker.images(torch.full((1, 4, 2, 2), 100.0))
    torch.testing.assert_close(tir, torch.full((1, 3, 2, 2), (100 / 255 - 0.449) / 0.226))
    ours = load_official("tbsi", path, **OPTIONS["tbsi"], whole_pixels="no")
    assert ours.crops.whole_pixels == "no"


# --- foreign objects beside the weights ----------------------------------------------------------


class Settings:
    """A class of someone else's project, as official files hold."""

    def __init__(self):
        self.rate, self.nested = 1e-4, argparse.Namespace(a=[1, {2}], path=Path("x"))


class WithState(Settings):
    __slots__ = ("secret",)

    def __getstate__(self):
        return {"rate": 1}, {"secret": 2}


def test_a_file_with_objects_of_foreign_classes_loads(tmp_path, monkeypatch):
    extra = {
        "settings": Settings(),
        "stats": [WithState(), {"loss": np.float64(0.5), "curve": np.arange(3)}],
        "optimizer": {Settings(): 1},
    }
    path = save(tmp_path / "w.pth.tar", cf.state(order("vipt")), **extra)
    monkeypatch.delattr(sys.modules[__name__], "Settings")  # the project is not installed here
    assert len(load_official("vipt", path, **OPTIONS["vipt"]).leftovers) == 2


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_hostile_objects_beside_good_weights_change_nothing(tmp_path):
    mark = tmp_path / "mark"
    bad = [Hostile(f"touch {mark}")]
    state = cf.state(order("vipt"))
    tracker = load_official("vipt", save(tmp_path / "w.pth", state, stats=bad), **OPTIONS["vipt"])
    assert not mark.exists()
    assert has_the_tensors_of(tracker, state, without=("head.stage2.",))


# --- refusals -------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(
        WeightsError, match="unknown kind of weights 'siamese': expected one of ostrack, vipt, tbsi"
    ):
        load_official("siamese", tmp_path / "w.pth")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("other", CLASSES)
def test_another_trackers_file_is_refused(kind, other, tmp_path):
    if kind != other:
        path = save(tmp_path / "w.pth", cf.state(order(other)))
        with pytest.raises(
            WeightsError, match=f"expected weights of {kind}, but these are {other}'s"
        ):
            load_official(kind, path, **OPTIONS[kind])


def test_names_and_shapes_that_differ_are_listed(tmp_path):
    state = cf.state(order("tbsi"))
    state["backbone.blocks.0.norm1.weight"] = torch.zeros(17)
    state["box_head.extra"] = state.pop("box_head.conv5_size.bias")
    with pytest.raises(WeightsError) as error:
        load_official("tbsi", save(tmp_path / "w.pth", state), **OPTIONS["tbsi"])
    for words in (
        'Missing key.*: "head.base.conv5_size.bias"',
        'Unexpected.*: "box_head.extra"',
        r"norm1.weight: .*\[17\].*\[16\]",
    ):
        assert re.search(words, str(error.value))
    state = cf.state(order("ostrack"))
    state["backbone.blocks.3.norm1.bias"] = torch.zeros(16)
    with pytest.raises(
        WeightsError, match=r"the tensors of ostrack \(hidden=16.*keep=.*\)\. Error"
    ):
        load_official("ostrack", save(tmp_path / "w.pth", state), **OPTIONS["ostrack"])


# --- other sizes, other precision, other names ----------------------------------------------------


def test_the_options_of_a_file_of_another_size_are_named(tmp_path):
    """As a model for 384 pixels is, at the official template of 192."""
    tall = OPTIONS["tbsi"] | {"template": 24, "search": 48}
    path = save(tmp_path / "w.pth", cf.state(order("tbsi", options=tall)))
    with pytest.raises(
        WeightsError, match=r"'tbsi', FILE, template=24, search=48\) in Py.* command line"
    ):
        load_official("tbsi", path, **OPTIONS["tbsi"])
    with pytest.raises(WeightsError, match=r"another: load_official\('tbsi', FILE, search=48\) in"):
        load_official("tbsi", path, **(OPTIONS["tbsi"] | {"template": 24}))
    assert load_official("tbsi", path, **tall).crops.search == 48
    words = (
        "official size.*FILE, dim=16, depth=3, patch=4, template=24, search=48, hidden=16, heads"
    )
    with pytest.raises(WeightsError, match=words):
        load_official("tbsi", path)


def test_an_ostrack_for_384_pixels_searches_five_times_the_targets_side(tmp_path):
    options = {"hidden": 8, "dim": 8, "depth": 1, "heads": 1, "template": 192, "search": 384}
    path = save(tmp_path / "w.pth", cf.state(order("ostrack", options=options | {"keep": {}})))
    crops = load_official("ostrack", path, elimination=False, **options).crops
    wh = torch.tensor([[40.0, 40.0]])  # the template shows 80 pixels, the search patch 200
    assert crops.scale(wh).item() == pytest.approx(200 / 384)
    frames = torch.arange(600).expand(1, 3, 600, 600)
    patch = crops.cut(frames, torch.tensor([[300.0, 300.0]]), wh, 384)
    assert patch[0, 0, 0, [0, -1]].tolist() == pytest.approx([200, 399], abs=0.5)
    patch = crops.cut(frames, torch.tensor([[300.0, 300.0]]), wh, 192)
    assert patch[0, 0, 0, [0, -1]].tolist() == pytest.approx([260, 339], abs=0.5)


def test_elimination_is_asked_for_where_the_file_cannot_tell(tmp_path):
    options = TINY | {"depth": 4}
    path = save(tmp_path / "w.pth", cf.state(order("ostrack", options=options | {"keep": {}})))
    words = r"w\.pth: .*elimination=True .*`_ce_`.*elimination=False"
    with pytest.raises(SettingError, match=words):
        load_official("ostrack", path, **options)
    few, every = [
        load_official("ostrack", path, elimination=flag, **(options | more))
        for flag, more in ((True, {"depth": 4, "keep": {3: 0.7}}), (False, {}))
    ]
    assert (few.backbone.keep, every.backbone.keep) == ({3: 0.7}, {})
    crops = torch.rand(1, 4, 32, 32) * 255
    with torch.no_grad():
        one, two = (
            t.encode(t.encode_template(crops[..., :16, :16], ""), crops, "") for t in (few, every)
        )
    assert not torch.allclose(one, two)


def test_elimination_stands_for_the_official_blocks(tmp_path):
    tall = TINY | {"depth": 10}
    for kind, usual in (("ostrack", None), ("vipt", ELIMINATION), ("tbsi", {})):
        options = tall | ({"at": (0, 1)} if kind == "tbsi" else {})
        path = save(tmp_path / "w.pth", cf.state(order(kind, options=options)))
        for flag, keep in ((True, ELIMINATION), (False, {}), (None, usual)):
            if keep is not None:
                tracker = load_official(kind, path, elimination=flag, **options)
                assert tracker.backbone.keep == keep


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_loads_as_float32(dtype, tmp_path):
    state = cf.state(order("vipt"))
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    tracker = load_official("vipt", save(tmp_path / "w.pth", state), **OPTIONS["vipt"])
    kinds = {v.dtype for v in tracker.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}  # batch norms count
    assert has_the_tensors_of(tracker, state, without=("head.stage2.",))
    crops = torch.rand(1, 4, 32, 32) * 255
    with torch.no_grad():
        template = tracker.encode_template(crops[..., :16, :16], "base")
        assert tracker.search(template, crops, "base")[0].dtype == torch.float32


def test_long_lists_of_names_are_cut(tmp_path):
    state = cf.state(order("tbsi"))
    left = {name: value for name, value in state.items() if "blocks." not in name}
    with pytest.raises(WeightsError) as error:
        load_official("tbsi", save(tmp_path / "w.pth", left), **OPTIONS["tbsi"])
    assert str(error.value).count('"backbone.') == 10
    assert '", ....' in str(error.value)


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.", "net."])
@pytest.mark.parametrize("wrapper", ["averaged", "inner"])
def test_what_wrappers_put_into_names_is_dropped(prefix, wrapper, tmp_path):
    state = cf.state(order("tbsi", networks()["uvit"]))
    named = {prefix + name: value for name, value in state.items()}
    if wrapper == "averaged":
        state["n_averaged"] = named["n_averaged"] = torch.tensor(3)
    else:  # a part was compiled
        named = {k.replace("backbone.", "backbone._orig_mod."): v for k, v in named.items()}
    path = save(tmp_path / "w.pth", named)
    assert has_the_tensors_of(load_official("tbsi", path, **OPTIONS["tbsi"]), state)
    with pytest.raises(WeightsError, match="expected weights of vipt, but these are tbsi's"):
        load_official("vipt", path, **OPTIONS["vipt"])


def test_a_prefix_of_some_names_alone_is_refused(tmp_path):
    state = cf.state(order("tbsi"))
    state = {f"module.{k}" if "backbone" in k else k: v for k, v in state.items()}
    with pytest.raises(WeightsError, match=r'Missing key.*: "backbone\.pos_embed_z"'):
        load_official("tbsi", save(tmp_path / "w.pth", state), **OPTIONS["tbsi"])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    for name in ("backbone.blocks.1.attn.qkv.weight", "box_head.conv1_ctr.1.running_var"):
        state = cf.state(order("vipt"))
        state["backbone.cls_token"][..., 0] = value  # is not used
        path = save(tmp_path / "w.pth", state)
        assert load_official("vipt", path, **OPTIONS["vipt"]) is not None
        state[name].flatten()[-1] = value
        with pytest.raises(WeightsError, match=rf"w\.pth: '{re.escape(name)}' holds NaN or inf"):
            load_official("vipt", save(path, state), **OPTIONS["vipt"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("box_head.conv1_ctr.1.running_var", -1.0, "variances below zero"),
        ("backbone.blocks.1.attn.qkv.weight", 0.0, "only zeros"),
    ],
)
def test_weights_that_no_training_makes_are_refused_by_name(name, value, words, tmp_path):
    state = cf.state(order("vipt"))
    state["backbone.norm.bias"].fill_(0)  # a vector may be
    path = save(tmp_path / "w.pth", state)
    assert load_official("vipt", path, **OPTIONS["vipt"]) is not None
    state[name].fill_(value)
    with pytest.raises(WeightsError, match=rf"w\.pth: '{re.escape(name)}' holds {words}; expected"):
        load_official("vipt", save(path, state), **OPTIONS["vipt"])
