"""Files of torch.save: read exactly, refused in words, and never run."""

import argparse
import contextlib
import errno
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.errors import WeightsError
from gmmt.trackers.torch_file import read_state, run


def save(path, state, **extra):
    torch.save({"epoch": 15, "net": state, **extra}, path)
    return path


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
    torch.save({"net": {"w": torch.zeros(100, 100)}}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        read_state(path)


def test_what_a_file_is_instead_is_said(tmp_path):
    path, state = tmp_path / "w.pth", {"a.weight": torch.ones(3), "b": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"a folder; expected a file"):
        read_state(tmp_path)
    made = {
        "a page of the web": lambda: path.write_text("\n<!DOCTYPE html>"),
        "a safetensors file. Load it": lambda: safetensors.torch.save_file(state, path),
        "a pickle, as torch before 1.6": lambda: torch.save(
            {"net": state}, path, _use_new_zipfile_serialization=False
        ),
        'under "net", but it has a.weight, b. Load': lambda: torch.save(state, path),
        "but it has state_dict. Load it, and save it as torch.save": lambda: torch.save(
            {"state_dict": state}, path
        ),
    }
    for words, make in made.items():
        make()
        with pytest.raises(WeightsError) as error:
            read_state(path)
        assert words in str(error.value)
        assert "Fetch it again" not in str(error.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = save(tmp_path / "w.pth", {"w": torch.ones(1)})

    def denied(self, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "open", denied)
    with pytest.raises(PermissionError):
        read_state(path)


# --- nothing is run -------------------------------------------------------------------------------


def archive(path, content: bytes, compression=zipfile.ZIP_STORED, **storages: bytes):
    """A torch archive around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
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
    found = {}
    for name, thing in objects.items():
        content = {"net": OrderedDict(w=thing), "x": thing}
        found[name] = pickle.dumps(content, 2)
        found[f"{name}, protocol 4"] = pickle.dumps(content, 4)
    found["as a key"] = pickle.dumps({"net": {Reduced(eval, code): 1}}, 2)
    source = code.encode().replace(b"'", b'"')
    by_hand = {
        "old instance": b"(S'" + source + b"'\nibuiltins\neval\n.",
        "old object": b"(cbuiltins\neval\nS'" + source + b"'\no.",
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


def test_the_attacks_would_work_without_the_guard(tmp_path):
    worked = []
    for name, content in attacks(str(tmp_path / "mark")).items():
        with contextlib.suppress(Exception):  # some fail after they have run
            pickle.loads(content)
        if (tmp_path / "mark").exists():
            worked.append(name)
            (tmp_path / "mark").unlink()
    assert len(worked) >= 18, worked


def test_names_stay_names_and_objects_are_dropped():
    assert run(pickle.dumps(torch.nn.Linear, 2)) == "torch.nn.modules.linear Linear"
    assert run(pickle.dumps(argparse.Namespace(a=1, b=[2]), 2)) is None


# --- no memory but the file's ---------------------------------------------------------------------


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(n):
    return b"J" + struct.pack("<i", n)


def numbers(*items):
    return b"(" + b"".join(number(n) for n in items) + b"t"


def storage(count=4, key="0", kind="Float"):
    """Instructions that put a storage on the stack."""
    name = f"ctorch\n{kind}Storage\n".encode()
    return b"(" + text("storage") + name + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(size=(4,), stride=(1,), offset=0, of=None):
    """Instructions that put a tensor on the stack."""
    places = number(offset) + numbers(*size) + numbers(*stride)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return call + (of or storage()) + places + b"\x89ccollections\nOrderedDict\n)RtR"


def weights(*instructions):
    """A pickle of {"net": {"w": what the instructions put on the stack}}."""
    return b"\x80\x02}" + text("net") + b"}" + text("w") + b"".join(instructions) + b"ss."


RAW = np.arange(4, dtype=np.float32).tobytes()


def test_instructions_by_hand_make_a_tensor(tmp_path):
    """Else the tests below would prove nothing."""
    content = weights(tensor((2, 2), (1, 2)))
    good = read_state(archive(tmp_path / "w.pth", content, **{"0": RAW}))
    assert good["w"].tolist() == [[0, 2], [1, 3]]
    content = weights(tensor((0, 3), (3, 1), of=storage(0)))
    assert read_state(archive(tmp_path / "w.pth", content, **{"0": b""}))["w"].shape == (0, 3)


NEW_PLACES = number(0) + numbers(1000) + numbers(1) + b"t"


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("target", ["tensor", "parameter", "storage", "function"])
@pytest.mark.parametrize(
    ("instructions", "what"),
    [
        (b"(" + storage() + NEW_PLACES + b"b", "BUILD with another storage"),
        (b"(" + storage(0, "1") + NEW_PLACES + b"b", "BUILD with an empty storage"),
        (b"}" + text("data") + number(1) + b"sb", "BUILD with attributes"),
        (b"N}" + text("data") + number(1) + b"s\x86b", "BUILD with slots"),
        (b")R", "REDUCE"),
        (numbers(1000) + b"R", "REDUCE with a size"),
        (b")\x81", "NEWOBJ"),
        (number(0) + number(7) + b"s", "SETITEM"),
        (b"(" + number(0) + number(7) + number(1) + number(8) + b"u", "SETITEMS"),
        (number(7) + b"a", "APPEND"),
        (b"(" + number(7) + number(8) + b"e", "APPENDS"),
        (b"Q", "BINPERSID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_instruction_changes_a_tensor(instructions, what, target, count, tmp_path):
    """Each follows on a tensor, and on what tensors are made of. BUILD with four items makes
    torch's own tensors take another size, for which an empty one takes memory that nobody filled.
    """
    made = tensor((count,), of=storage(count))
    if target == "tensor":
        content = weights(made, instructions)
    elif target == "parameter":
        call = b"ctorch._utils\n_rebuild_parameter\n("
        content = weights(call, made, b"\x88}tR", instructions)
    elif target == "storage":
        content = weights(tensor((count,), of=storage(count) + instructions))
    else:
        content = weights(b"ctorch._utils\n_rebuild_tensor_v2\n", instructions)
    path = archive(tmp_path / "w.pth", content, **{"0": RAW[: 4 * count], "1": b""})
    with pytest.raises(WeightsError):
        read_state(path)


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
        ((2, 2), (1,), 0, "0"),
        ((1 << 30, 1 << 30, 1 << 30), (0, 0, 0), 0, "0"),
        ((5,), (0,), 0, "0"),  # one number five times: as small a file could fill any memory
    ],
)
def test_a_tensor_never_reaches_beyond_its_storage(size, stride, offset, key, tmp_path):
    content = weights(tensor(size, stride, offset, storage(4, key)))
    with pytest.raises(WeightsError):
        read_state(archive(tmp_path / "w.pth", content, **{"0": RAW}))


@pytest.mark.parametrize("kind", ["Float", "Half", "Double", "Bool"])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 2_000_000_000])
def test_a_storage_has_the_bytes_that_its_elements_need(kind, count, tmp_path):
    content = weights(tensor((0,), (1,), of=storage(count, kind=kind)))
    with pytest.raises(WeightsError, match=r"storage '0': expected \d+ bytes, got 16"):
        read_state(archive(tmp_path / "w.pth", content, **{"0": RAW}))


def test_a_storage_is_described_once(tmp_path):
    twice = tensor() + text("v") + tensor((8,), of=storage(8, kind="Half"))
    content = b"\x80\x02}" + text("net") + b"}(" + text("w") + twice + b"us."
    with pytest.raises(WeightsError, match="storage '0' is described in two ways"):
        read_state(archive(tmp_path / "w.pth", content, **{"0": RAW}))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused_before_they_are_read(compression, tmp_path):
    n = 1 << 24  # 64 MiB of zeros
    content = weights(tensor((n,), of=storage(n)))
    path = archive(tmp_path / "w.pth", content, compression, **{"0": bytes(4 * n)})
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"is compressed"):
            read_state(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_entries_that_claim_more_than_the_file_are_refused(tmp_path):
    """Two entries of the directory that share their bytes count twice."""
    path = archive(tmp_path / "w.pth", weights(tensor()), **{"0": RAW, "1": bytes(4000)})
    with zipfile.ZipFile(path, "a") as file:
        file.filelist += [file.getinfo("w/data/1")] * 3
        file._didModify = True
    with pytest.raises(WeightsError, match="the entries hold more bytes than the file"):
        read_state(path)


def test_a_huge_memo_number_takes_no_memory(tmp_path):
    path = archive(tmp_path / "w.pth", weights(tensor(), b"r\xff\xff\xff\x7f"), **{"0": RAW})
    tracemalloc.start()
    try:
        assert read_state(path)["w"].tolist() == [0, 1, 2, 3]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


DEEP = b")" + b"q\x01h\x01\x86" * 200
"""A tuple of twice the tuple before it, 200 times: to hash it or to write it takes for ever."""


def test_a_key_that_takes_for_ever_to_hash_is_not_hashed(tmp_path):
    content = b"\x80\x02}" + text("x") + b"}" + DEEP + b"Nss."
    with pytest.raises(WeightsError, match="but it has x"):
        read_state(archive(tmp_path / "w.pth", content))


STORAGES = "expected tensors in a storage of torch DoubleStorage, torch FloatStorage, "


def described(**changed):
    """Instructions that put a tensor on the stack, of whose storage something else is said."""
    parts = {"kind": b"ctorch\nFloatStorage\n", "key": text("0"), "count": number(4)} | changed
    said = parts["kind"] + parts["key"] + text("cpu") + parts["count"]
    return tensor(of=b"(" + text("storage") + said + b"tQ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (weights(described(kind=DEEP)), STORAGES),
        (weights(described(kind=b"ctorch\nShortStorage\n")), STORAGES),
        (weights(described(key=DEEP)), STORAGES),
        (weights(described(count=DEEP)), STORAGES),
        (weights(described(count=text("4"))), STORAGES),
        (weights(tensor(of=DEEP)), "not enough values to unpack"),
        (weights(tensor((2,), (4,))), "a tensor reaches beyond its storage"),
        (weights(tensor((1,), (1,), -1)), "that is not 0, 1, 2"),
        (weights(DEEP), "'w' is none"),
        (b"\x80\x02}" + text("net") + b"}K\x01" + tensor() + b"ss.", "None is none"),
        (b"\x80\x02" + DEEP + b".", "it has no names"),
        (pickle.dumps({"net": {}}, 4), "torch.save does not write the instruction FRAME here"),
    ],
)
def test_what_is_described_wrongly_is_refused_in_words(content, words, tmp_path):
    with pytest.raises(WeightsError, match=words):
        read_state(archive(tmp_path / "w.pth", content, **{"0": RAW}))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, on damaged text
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_pickle_is_refused_or_gives_tensors_of_the_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(weights(tensor((2, 2), (1, 2))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = archive(folder / "w.pth", bytes(content), **{"0": RAW})
    with contextlib.suppress(WeightsError):
        for value in read_state(path).values():
            assert value.untyped_storage().nbytes() in (0, len(RAW))
            assert value.numel() * value.element_size() <= len(RAW)
