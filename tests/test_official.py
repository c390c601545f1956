"""Official weight files: read exactly, refused by name, and never run."""

import argparse
import contextlib
import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import closed_form as cf
import numpy as np
import pytest
import torch
from released import official_name

import gmmt
from gmmt.errors import WeightsError
from gmmt.networks.uvit import UViT
from gmmt.trackers.official import Unpickler, is_leftover, load_official, read_state
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import OSTrack

TINY = {"hidden": 16, "dim": 16, "depth": 3, "heads": 2, "patch": 4, "template": 16, "search": 32}
OPTIONS = {
    "ostrack": TINY | {"keep": {1: 0.7}},
    "vipt": TINY | {"keep": {1: 0.7}},
    "tbsi": TINY | {"at": (0, 1)},
}
CLASSES = {"ostrack": OSTrack, "vipt": ViPT, "tbsi": TBSI}


def order(kind, gmmt_of=None):
    """[k, key, shape] of a tiny tracker's official state, leftovers included."""
    with torch.device("meta"):
        tracker = CLASSES[kind](**OPTIONS[kind])
        if gmmt_of:
            tracker.fusion = torch.nn.ModuleDict({"network": gmmt_of})
    own = {
        official_name(k, "uvit"): list(v.shape)
        for k, v in tracker.state_dict().items()
        if gmmt_of or "stage2" not in k
    }
    own |= {"backbone.cls_token": [1, 1, 16], "backbone.pos_embed": [1, 197, 16]} | (
        {"lddiffuse.betas": [1000]} if gmmt_of else {}
    )
    return [[k, key, shape] for k, (key, shape) in enumerate(own.items())]


def save(path, state, **extra):
    torch.save({"epoch": 15, "net": state, **extra}, path)
    return path


@pytest.mark.parametrize("kind", CLASSES)
def test_a_closed_form_state_loads_with_nothing_missing(kind, tmp_path):
    state = cf.state(order(kind))
    tracker = gmmt.load_official(
        kind, save(tmp_path / "w.pth.tar", OrderedDict(state)), **OPTIONS[kind]
    )
    ours = {official_name(k): v for k, v in tracker.state_dict().items() if "stage2" not in k}
    assert (
        set(state) - set(ours)
        == set(tracker.leftovers)
        == {"backbone.cls_token", "backbone.pos_embed"}
    )
    assert all(
        torch.equal(v, state[k]) for k, v in ours.items() if not k.endswith("num_batches_tracked")
    )
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


def test_gmmt_on_tbsi_loads_with_its_head_and_samples(tmp_path):
    state = cf.state(order("tbsi", UViT(16, 1, 2, 24, size=8, form="released")))
    tracker = load_official("tbsi", save(tmp_path / "w.pth.tar", state), **OPTIONS["tbsi"])
    ours = {
        official_name(k, "uvit"): v
        for k, v in tracker.state_dict().items()
        if k not in ("fusion.mean", "fusion.std")
    }
    assert (
        set(state) - set(ours)
        == set(tracker.leftovers)
        == {"backbone.cls_token", "backbone.pos_embed", "lddiffuse.betas"}
    )
    assert all(
        torch.equal(v, state[k]) for k, v in ours.items() if not k.endswith("num_batches_tracked")
    )
    crops = torch.rand(1, 4, 32, 32) * 255
    with torch.no_grad():
        score, *_ = tracker.search(
            tracker.encode_template(crops[..., :16, :16], "stage2"), crops, "stage2", steps=2
        )
    assert score.isfinite().all()
    with pytest.raises(
        WeightsError, match=r"size mismatch for fusion\.network"
    ):  # U's parameters are known by their order
        load_official(
            "tbsi", save(tmp_path / "w.pth.tar", dict(sorted(state.items()))), **OPTIONS["tbsi"]
        )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ostrack_vitb256_full_keys", "ostrack"),
        ("ostracknoce_vitb256_full_keys", "ostrack"),
        ("vipt_deep_rgbt_full_keys", "vipt"),
        ("tbsi_track_full_keys", "tbsi"),
        ("tbsi_gmmt_track_released_full_keys", "tbsi"),
    ],
)
def test_full_size_states_go_through_the_loader(reference, name, kind, tmp_path):
    """Every tensor shows one number many times, so that 4 GB of weights need no memory."""
    keys = json.loads((reference / f"{name}.json").read_text())["keys"]
    path = save(
        tmp_path / "w.pth.tar",
        {k: torch.ones(1).expand(shape) if shape else torch.tensor(0) for k, shape in keys.items()},
    )
    tracker = load_official(kind, path)
    new = ("fusion.mean", "fusion.std", *(() if tracker.fusion else ("head.stage2.",)))
    ours = {
        official_name(k): list(v.shape)
        for k, v in tracker.state_dict().items()
        if not k.startswith(new)
    }
    assert ours | {k: keys[k] for k in tracker.leftovers} == keys
    assert all(is_leftover(k) for k in tracker.leftovers)
    assert (tracker.fusion is not None) == ("gmmt" in name)
    assert not any(v.is_meta for v in tracker.state_dict().values())


def test_dtypes_views_and_parameters_come_back(tmp_path):
    base = torch.arange(24.0)
    state = {
        "whole": base,
        "view": base.reshape(4, 6).T[1:, ::2],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "half": torch.randn(2, 2).half(),
        "bf16": torch.randn(5).bfloat16(),
        "long": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    back = read_state(save(tmp_path / "w.pth", torch.nn.Module().state_dict() | state))
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in state.items())


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


# --- nothing is run -------------------------------------------------------------------------------


def archive(path, content: bytes, **storages: bytes):
    """A torch archive around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", content)
        for name, raw in storages.items():
            file.writestr(f"w/data/{name}", raw)
    return path


class Reduced:
    def __init__(self, function, *args, state=None):
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.parts


def attacks(mark):
    """name -> a pickle that makes the file `mark` if anything of it is run."""
    code = f"open({mark!r}, 'w').close()"
    deep = Reduced(getattr, Reduced(__import__, "os"), "system")
    objects = {
        "os.system": Reduced(os.system, f"touch {mark}"),
        "eval": Reduced(eval, code),
        "exec": Reduced(exec, code),
        "getattr of import": Reduced(map, deep, [f"touch {mark}"]),
        "open": Reduced(open, mark, "w"),
        "subprocess": Reduced(__import__("subprocess").getoutput, f"touch {mark}"),
        "torch.load of bytes": Reduced(
            torch.storage._load_from_bytes, pickle.dumps(Reduced(eval, code))
        ),
        "rebuild with a function": Reduced(
            torch._utils._rebuild_tensor_v2,
            Reduced(eval, code),
            0,
            (1,),
            (1,),
            False,
            OrderedDict(),
        ),
        "rebuild from type": Reduced(torch._tensor._rebuild_from_type_v2, eval, str, (code,), {}),
        "partial": Reduced(
            __import__("functools").partial, eval, code, state=(eval, (code,), {}, {})
        ),
        "state of a list": Reduced(list, state={"__class__": Reduced(eval, code)}),
    }
    found = {
        name: pickle.dumps({"net": OrderedDict(w=thing), "x": thing})
        for name, thing in objects.items()
    }
    found["as a key"] = pickle.dumps({"net": {Reduced(eval, code): 1}})
    by_hand = {
        "old instance": b"(S'" + code.encode().replace(b"'", b'"') + b"'\nibuiltins\neval\n.",
        "old object": b"(cbuiltins\neval\nS'" + code.encode().replace(b"'", b'"') + b"'\no.",
        "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys"
        b"\x93\x8c\x01ab0\x85R.",
        "attributes of a class": b"\x80\x02ctorch._utils\n_rebuild_parameter\n"
        b"N}X\x07\x00\x00\x00__new__cbuiltins\neval\ns\x86b.",
        "attributes of a dictionary": b"\x80\x02ccollections\nOrderedDict\n)RN}"
        b"X\x05\x00\x00\x00itemscbuiltins\neval\ns\x86b.",
        "storage with a call": b"\x80\x02(X\x07\x00\x00\x00storagecbuiltins\neval\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        "extension": b"\x80\x02\x82\x01.",
    }
    return found | by_hand


@pytest.mark.parametrize("name", attacks("x"))
def test_a_hostile_file_runs_nothing(name, tmp_path):
    mark = tmp_path / "mark"
    content = attacks(str(mark))[name]
    with pytest.raises(WeightsError):
        read_state(archive(tmp_path / "w.pth", content))
    assert not mark.exists()
    good = read_state(
        save(tmp_path / "good.pth", {"w": torch.nn.Parameter(torch.ones(2))})
    )  # nor is anything of ours changed
    assert good["w"].tolist() == [1, 1]
    assert Unpickler(io.BytesIO(pickle.dumps(torch.nn.Linear))).load() is not torch.nn.Linear


def test_the_attacks_would_work_without_the_guard(tmp_path):
    worked = []
    for name, content in attacks(str(tmp_path / "mark")).items():
        with contextlib.suppress(Exception):  # some fail after they have run
            pickle.loads(content)
        if (tmp_path / "mark").exists():
            worked.append(name)
            (tmp_path / "mark").unlink()
    assert len(worked) >= 9, worked


def test_hostile_objects_beside_good_weights_change_nothing(tmp_path):
    mark = tmp_path / "mark"
    bad = [Reduced(eval, f"open({str(mark)!r}, 'w').close()"), Reduced(os.system, f"touch {mark}")]
    tracker = load_official(
        "vipt", save(tmp_path / "w.pth", cf.state(order("vipt")), stats=bad), **OPTIONS["vipt"]
    )
    assert not mark.exists()
    assert torch.equal(
        tracker.backbone.norm.weight, cf.state(order("vipt"))["backbone.norm.weight"]
    )


def tensor(size, stride, offset=0, key="0", state=False):
    """A pickle of {"net": {"w": a tensor}} over storage `key`; with `state` a good one that is then
    given these sizes.
    """

    class P(pickle.Pickler):
        def persistent_id(self, obj):
            return (
                ("storage", torch.FloatStorage, key, "cpu", 4) if isinstance(obj, Storage) else None
            )

    class Storage:
        pass

    out = io.BytesIO()
    flat, view = Storage(), (offset, size, stride)
    first, later = ((0, (2,), (1,)), (flat, *view)) if state else (view, None)
    P(out, 2).dump(
        {
            "net": {
                "w": Reduced(
                    torch._utils._rebuild_tensor_v2, flat, *first, False, OrderedDict(), state=later
                )
            }
        }
    )
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset", "key"),
    [
        ((5,), (1,), 0, "0"),
        ((2,), (4,), 0, "0"),
        ((1,), (1,), 4, "0"),
        ((1,), (1,), -1, "0"),
        ((2,), (-1,), 1, "0"),
        ((1,), (1,), 0, "../x"),
        ((-1,), (1,), 0, "0"),
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(size, stride, offset, key, tmp_path):
    raw = np.arange(4, dtype=np.float32).tobytes()
    good = read_state(archive(tmp_path / "good.pth", tensor((2, 2), (1, 2)), **{"0": raw}))
    assert good["w"].tolist() == [[0, 2], [1, 3]]
    for state in (False, True):
        with pytest.raises(WeightsError):
            read_state(
                archive(tmp_path / "w.pth", tensor(size, stride, offset, key, state), **{"0": raw})
            )


# --- refusals -------------------------------------------------------------------------------------


def test_what_is_no_weight_file_is_refused_in_words(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(WeightsError, match=r"w\.pth: there is no such file.*weights\.json"):
        read_state(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match=r"w\.pth: expected a torch weight file.*Fetch it again"):
        read_state(path)
    torch.save({"model": {}, "epoch": 3}, path)
    with pytest.raises(
        WeightsError,
        match='expected a dictionary with the weights under "net", but it has model, epoch',
    ):
        read_state(path)
    torch.save({"net": {"a": 3}}, path)
    with pytest.raises(WeightsError, match=r"expected named tensors.*'a' is none"):
        read_state(path)
    torch.save({"net": cf.state(order("vipt"))}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        read_state(path)
    with pytest.raises(
        WeightsError, match="unknown kind of weights 'siamese': expected one of ostrack, vipt, tbsi"
    ):
        load_official("siamese", path)


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
    with pytest.raises(WeightsError, match="the official size"):
        load_official("ostrack", save(tmp_path / "w.pth", cf.state(order("ostrack"))))
