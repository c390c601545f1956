"""Official weights of OSTrack, ViPT, TBSI and TBSI with GMMT, read without running anything that
the files may carry.

The files are pickles that also hold objects of their projects' own classes (settings, statistics),
which `torch.load(weights_only=True)` refuses and `weights_only=False` would have to import. Here
every name in a pickle but a few becomes a placeholder that does nothing.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from gmmt.errors import WeightsError
from gmmt.fusion import DiffusionFusion
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.heads import CentreHead
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import OneStream, OSTrack

KINDS = {"ostrack": OSTrack, "vipt": ViPT, "tbsi": TBSI}
PREFIXES = {  # ours: theirs
    "head.rgb.": "box_head.",
    "head.base.": "box_head.",
    "head.stage2.": "ldd_head.",
    "fuse.": "tbsi_fuse_search.",
}

U = "lddiffuse.unet."
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
}
DTYPES |= {"Long": torch.int64, "Int": torch.int32, "Byte": torch.uint8, "Bool": torch.bool}


class Placeholder:
    """Stands for anything in a pickle: it can be called, filled and given a state, and does
    nothing.
    """

    def nothing(self, *args, **options) -> "Placeholder":
        """Drops whatever a pickle has for the object, and returns another placeholder."""
        return Placeholder()

    __init__ = lambda self, *args, **options: None  # noqa: E731
    __call__ = __setstate__ = __setitem__ = append = extend = add = nothing


class Table(dict):
    """Stands for OrderedDict, without its attributes."""

    __setstate__ = Placeholder.nothing


class Unpickler(pickle.Unpickler):
    """Reads a pickle in which no name leads to code but for tensors, which are views of storages in
    the archive.
    """

    def __init__(self, file: BinaryIO, raw: Callable[[str], bytes] = Placeholder):
        """Takes the pickle, and what gives a storage's bytes by its name."""
        super().__init__(file)
        self.raw, self.storages = raw, {}

    def find_class(self, module: str, name: str):
        """Returns what stands for a name: a storage's dtype, what makes tensors, or a class above.
        Nothing is imported.
        """
        known = {f"torch.{kind}Storage": dtype for kind, dtype in DTYPES.items()}
        known["collections.OrderedDict"] = Table
        known["torch._utils._rebuild_tensor_v2"] = lambda flat, offset, size, stride, *_: (
            flat.as_strided(size, stride, offset)
        )
        known["torch._utils._rebuild_parameter"] = lambda data, *_: data
        return known.get(f"{module}.{name}", Placeholder)

    def persistent_load(self, pid) -> Tensor:
        """Returns a storage as a flat tensor; torch checks that no view of it goes beyond."""
        _, dtype, name, *_ = pid
        if name not in self.storages:
            raw = bytearray(self.raw(name))
            self.storages[name] = (
                torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            )
        return self.storages[name]


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Returns the tensors under "net" of an official weight file, on the CPU. No code of the file
    is run.

    WeightsError: the file is no torch archive, is damaged, or holds no "net" of named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such file; data_manifests/weights.json names the official "
            "ones and where they are"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = (
                n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1
            )
            folder = entry.removesuffix("data.pkl")
            content = Unpickler(
                io.BytesIO(archive.read(entry)), lambda name: archive.read(f"{folder}data/{name}")
            ).load()
    except Exception as error:  # a pickle can be wrong in every way
        raise WeightsError(
            f"{path}: expected a torch weight file (a zip archive with data.pkl, torch 1.6 or "
            "newer), but it is another or damaged: "
            f"{type(error).__name__}: {error}. Fetch it again."
        ) from error
    if not isinstance(content, dict) or not isinstance(net := content.get("net"), dict):
        known = (
            f"it has {', '.join(map(str, content))[:200]}"
            if isinstance(content, dict)
            else "it is something else"
        )
        raise WeightsError(
            f'{path}: expected a dictionary with the weights under "net", but {known}'
        )
    for key, value in net.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise WeightsError(
                f'{path}: expected named tensors under "net", but {key!r:.80} is none'
            )
    return dict(net)


def is_leftover(key: str) -> bool:
    """Returns whether no model computes with an official tensor: a leftover of pre-training, or a
    table that `Schedule` makes anew.
    """
    return key in ("backbone.cls_token", "backbone.pos_embed") or (
        key.startswith("lddiffuse.") and not key.startswith(U)
    )


def official_name(key: str) -> str:
    """Returns the official name of a tracker's parameter outside of U."""
    prefix = next((p for p in PREFIXES if key.startswith(p)), "")
    return PREFIXES.get(prefix, "") + key.removeprefix(prefix)


def released_fusion(state: Mapping[str, Tensor], channels: int) -> DiffusionFusion:
    """Returns GMMT as the released code has it, with a U without memory, of the size that an
    official state dict tells.
    """
    blocks = {
        k.split(".")[3]
        for k in state
        if k.startswith(U + "in_blocks.") or (k.startswith(U + "downs.") and ".res_block." in k)
    }
    with torch.device("meta"):
        if U + "pos_embed" in state:
            (dim, width), n = state[U + "down.weight"].shape, state[U + "pos_embed"].shape[1]
            u = UViT(
                channels,
                len(blocks),
                width // channels - 1,
                dim,
                size=math.isqrt(n),
                form="released",
            )
        else:
            inner, width, *_ = state[U + "downs.0.weight"].shape
            u = UNet(channels, len(blocks), width // channels - 1, inner, form="released")
    return DiffusionFusion(u, channels, width // channels - 1, weighting="released", time="level")


def load_official(kind: str, path: Path | str, **options) -> OneStream:
    """Returns the tracker of an official weight file, in evaluation mode; its `leftovers` names
    what in the file is no part of it.

    A file of TBSI may hold GMMT, too. (The U of the first release wants a third condition, which
    the release does not define: it loads, and cannot be run.) Without GMMT in the file, head
    "stage2" is new and untrained.

    `kind` is "ostrack", "vipt" or "tbsi"; `options` are those of the tracker's class, where the
    file's model is not of the official size.
    WeightsError: see `read_state`; or the file is another tracker's, or of another size: names and
        shapes that differ are listed.
    """
    if kind not in KINDS:
        raise WeightsError(f"unknown kind of weights {kind!r}: expected one of {', '.join(KINDS)}")
    state = read_state(path)
    seen = (
        "tbsi"
        if any(".tbsi_layers." in k for k in state)
        else "vipt"
        if any(".prompt_blocks." in k for k in state)
        else "ostrack"
    )
    if seen != kind and "backbone.norm.weight" in state:
        raise WeightsError(
            f"{path}: expected weights of {kind}, but these are {seen}'s: use "
            f"load_official({seen!r}, ...)"
        )
    with torch.device("meta"):
        tracker = KINDS[kind](**options)
    u = [k for k in state if k.startswith(U)]
    tracker.fusion = released_fusion(state, tracker.channels) if u else None
    tracker.leftovers = tuple(filter(is_leftover, state))
    new = ("fusion.mean", "fusion.std") + (
        () if any(k.startswith("ldd_head.") for k in state) else ("head.stage2.",)
    )
    own = tracker.state_dict()
    names = {official_name(k): k for k in own}
    names |= zip(
        u, [k for k in own if k.startswith("fusion.network.")], strict=False
    )  # the released U has our order
    ours = {k: v for k, v in own.items() if k.startswith(new)} | {
        names.get(k, k): v for k, v in state.items() if not is_leftover(k)
    }
    try:
        tracker.load_state_dict(ours, assign=True)
    except RuntimeError as error:  # torch names what is missing, unexpected or of another shape
        size = ", ".join(f"{k}={v}" for k, v in options.items()) or "the official size"
        raise WeightsError(
            f"{path}: expected the tensors of {kind} ({size}); others: dim=..., depth=.... "
            f"{error!s:.2000}"
        ) from None
    if "head.stage2." in new and "stage2" in tracker.head:
        tracker.head["stage2"] = CentreHead(
            tracker.channels, tracker.head["base"].conv1_ctr[0].out_channels
        )
    return tracker.eval()
