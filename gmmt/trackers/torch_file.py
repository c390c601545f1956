"""Reads the tensors of a file that torch.save wrote, without running anything in it.

Such a file is a zip archive: "data.pkl" is a pickle, "data/0", "data/1", ... are the bytes of the
tensors. A pickle is a program for a stack machine, which can import anything and call it. The
official files hold objects of their projects' classes, so `torch.load(weights_only=True)` refuses
them. Here a machine of our own runs the program. It imports and calls nothing; it can make whole
numbers, texts, tuples, dictionaries, None, and a `View`, which only describes a tensor. When the
program is over, and can change nothing more, views are checked, and made from bytes in the file.
"""

import math
import pickletools
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gmmt.errors import WeightsError

DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
AGAIN = 'save it as torch.save({"net": state}, FILE)'
MARK = object()  # lies on the stack below the items that a later instruction takes


class View(NamedTuple):
    """What the file says of a tensor, unchecked: element (i, j, ...) is the storage's element
    offset + i * stride[0] + j * stride[1] + ...
    """

    storage: tuple[str, str, int]  # a key of DTYPES, the entry with the bytes, how many elements
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def run(pickled: bytes) -> object:
    """What a pickle describes. Whatever weights do not need is None: flags, fractions, lists,
    objects, results of calls. Any error: an instruction is not torch.save's, or out of place.
    """
    stack: list = []
    memo: dict[int, object] = {}  # things that are used again later, by number
    for instruction, argument, _ in pickletools.genops(pickled):
        match instruction.name, *take(stack, instruction):
            case "STOP", result:
                return result
            case "PROTO" | "POP", *_:
                pass
            case "MARK", *_:
                stack.append(MARK)
            case "BINPUT" | "LONG_BINPUT", *_:
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET", *_:
                stack.append(memo[argument])

            # Values. GLOBAL names what Python's machine would import: here it is a text.
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINUNICODE" | "GLOBAL", *_:
                stack.append(argument)
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE", *items:
                stack.append(tuple(items))
            case "EMPTY_DICT", *_:
                stack.append({})
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "BINFLOAT" | "EMPTY_LIST" | "NEWOBJ", *_:
                stack.append(None)

            # Changes: dictionaries get items; attributes, and what is meant for None, are dropped.
            case "SETITEM" | "SETITEMS", dict() as target, *items:
                for key, value in zip(items[0::2], items[1::2], strict=True):
                    # Weights have texts for keys. To hash tuples of tuples can take for ever.
                    target[key if type(key) is str else None] = value
                stack.append(target)
            case "SETITEM" | "SETITEMS" | "APPEND" | "APPENDS" | "BUILD", None | dict() as same, *_:
                stack.append(same)

            # Calls: two of torch's are described, and OrderedDict() is a dictionary.
            case "REDUCE", "torch._utils _rebuild_tensor_v2", (storage, offset, size, stride, *_):
                stack.append(View(storage, offset, size, stride))
            case "REDUCE", "torch._utils _rebuild_parameter", (tensor, *_):
                stack.append(tensor)
            case "REDUCE", "collections OrderedDict", ():
                stack.append({})
            case "REDUCE", *_:
                stack.append(None)
            case "BINPERSID", ("storage", kind, key, _, count):  # the fourth: the device it was on
                stack.append((kind, key, count))
            case name, *_:
                raise ValueError(f"torch.save does not write the instruction {name} here")


def take(stack: list, instruction: pickletools.OpcodeInfo) -> list:
    """Takes off the stack what an instruction uses: so many items, and all down to a mark."""
    wanted = instruction.stack_before
    taken = []
    if pickletools.markobject in wanted:
        while (item := stack.pop()) is not MARK:
            taken.append(item)
        wanted = wanted[: wanted.index(pickletools.markobject)]
    taken += [stack.pop() for _ in wanted]
    return taken[::-1]


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors under "net" of an official weight file, on the CPU. No code of the file is run.

    WeightsError: the file is no torch archive, is damaged, says of a tensor what its bytes do not
        hold, or holds no "net" of named tensors. PermissionError: it may not be read.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: a folder; expected a file of official weights")
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such file; data_manifests/weights.json names the official "
            "ones and where they are"
        )
    with path.open("rb") as file:
        known = kind_of_file(file.read(16))
    if known:
        raise WeightsError(
            f"{path}: expected a torch weight file, a zip archive, but it is {known}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            # Entries that are compressed, as torch.save's never are, or that share their bytes
            # could fill the memory from a small file.
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"entry {entry.filename!r} is compressed")
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("the entries hold more bytes than the file")
            (program,) = (n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"])
            content = run(archive.read(program))
            content = content if type(content) is dict else {}
            if type(content.get("net")) is not dict:
                names = ", ".join(map(str, list(content)[:5])) or "no names"
                raise WeightsError(
                    f'{path}: expected a dictionary with the weights under "net", but it has '
                    f"{names}. Load it, and {AGAIN}"
                )
            return read_tensors(archive, program.removesuffix(".pkl"), content["net"])
    except WeightsError:
        raise
    except Exception as error:  # a file can be damaged in every way
        raise WeightsError(
            f"{path}: expected a torch weight file (a zip archive with data.pkl, torch 1.6 or "
            "newer), but it is another or damaged: "
            f"{type(error).__name__}: {error!s:.300}. Fetch it again."
        ) from error


def kind_of_file(first: bytes) -> str | None:
    """What a file is by its first bytes, if that is known and no zip archive."""
    if first[6:9] == b"\0\0{":  # behind a length below 2**48 stands JSON
        return f"a safetensors file. Load it, and {AGAIN}"
    if first[:1] == b"\x80":
        return f"a pickle, as torch before 1.6 wrote them. If you trust it, load it, and {AGAIN}"
    if first.lstrip()[:1] == b"<":
        return "a page of the web. Download the file itself"
    return None


def read_tensors(archive: zipfile.ZipFile, folder: str, net: dict) -> dict[str, Tensor]:
    """The tensors of `net`; those that share a storage in the file share it here.

    Any error: what is said of one is no such thing or disagrees with its bytes.
    """
    storages: dict[str, Tensor] = {}
    tensors = {}
    for name, view in net.items():
        if name is None or type(view) is not View:
            raise ValueError(f'expected named tensors under "net", but {name!r} is none')
        (kind, key, count), offset, size, stride = view

        # 1. The storage's elements [count] take up all of its bytes.
        if [type(kind), type(key), type(count)] != [str, str, int] or kind not in DTYPES:
            raise ValueError(f"expected tensors in a storage of {', '.join(DTYPES)}")
        dtype = DTYPES[kind]
        if key not in storages:
            entry = archive.getinfo(f"{folder}/{key}")
            expected, found = count * dtype.itemsize, entry.file_size
            if found != expected:
                raise ValueError(f"storage {key!r}: expected {expected} bytes, got {found}")
            storages[key] = torch.empty(0, dtype=dtype)
            if count > 0:
                storages[key] = torch.frombuffer(bytearray(archive.read(entry)), dtype=dtype)
        flat = storages[key]
        if flat.dtype != dtype or len(flat) != count:
            raise ValueError(f"storage {key!r} is described in two ways")

        # 2. The tensor lies within its storage, and has no more elements than it.
        if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
            raise ValueError("a tensor has an offset, size or stride that is not 0, 1, 2, ...")
        if math.prod(size) > 0:
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            if last >= count or math.prod(size) > count:
                raise ValueError("a tensor reaches beyond its storage")
        tensors[name] = flat.as_strided(size, stride, offset)
    return tensors
