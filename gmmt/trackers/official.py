"""Official weights of OSTrack, ViPT, TBSI and TBSI with GMMT, read without running anything that the files may carry.

The files are pickles that also hold objects of their projects' own classes (settings, statistics), which `torch.load(weights_only=True)`
refuses and `weights_only=False` would have to import. Here every name in a pickle but a few becomes a placeholder that does nothing.
"""

import io
import math
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from gmmt.errors import WeightsError
from gmmt.fusion import PRESETS, DiffusionFusion
from gmmt.networks.released import rename
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
    "fusion.network.": "lddiffuse.unet.",
}

DTYPES = {"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"}
DTYPES |= {"LongStorage": "int64", "IntStorage": "int32", "ByteStorage": "uint8", "BoolStorage": "bool"}


class Placeholder:
    """Stands for anything in a pickle: it can be called, filled and given a state, and does nothing."""

    def __init__(self, *args, **options):
        self.args = args

    def nothing(self, *args, **options) -> "Placeholder":
        """Drops whatever a pickle has for the object, and returns another placeholder."""
        return Placeholder()

    __call__ = __setstate__ = __setitem__ = append = extend = add = nothing


class Plan(Placeholder):
    """Stands for a tensor, (storage, offset, size, stride, ...), or for a parameter, (tensor, ...), until the pickle has been read."""


class Table(dict):
    """Stands for OrderedDict, without its attributes."""

    __setstate__ = Placeholder.nothing


class Unpickler(pickle.Unpickler):
    """Reads a pickle in which no name leads to code."""

    def find_class(self, module: str, name: str):
        """Returns what stands for a name: a dtype's name for a storage, or a class above. Nothing is imported."""
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        known = {"collections.OrderedDict": Table, "torch._utils._rebuild_tensor_v2": Plan, "torch._utils._rebuild_parameter": Plan}
        return known.get(f"{module}.{name}", Placeholder)

    def persistent_load(self, pid):
        """Returns a storage's (dtype, entry in the archive)."""
        return pid[1:3]


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Returns the tensors under "net" of an official weight file, on the CPU. No code of the file is run.

    Raises:
        WeightsError: the file is no torch archive, is damaged, or holds no "net" of named tensors.
    """
    path, storages, state = Path(path), {}, {}
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; data_manifests/weights.json names the official ones and where they are")
    try:
        with zipfile.ZipFile(path) as archive:
            (entry,) = (n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1)
            content = Unpickler(io.BytesIO(archive.read(entry))).load()
            if not isinstance(content, dict) or not isinstance(net := content.get("net"), dict):
                known = f"it has {', '.join(map(str, content))[:200]}" if isinstance(content, dict) else "it is something else"
                raise WeightsError(f'{path}: expected a dictionary with the weights under "net", but {known}')
            for key, plan in net.items():
                if isinstance(plan, Plan) and isinstance(plan.args[0], Plan):
                    plan = plan.args[0]
                if not isinstance(plan, Plan) or not isinstance(key, str):
                    raise WeightsError(f'{path}: expected named tensors under "net", but {key!r:.80} is none')
                (dtype, name), offset, size, stride = plan.args[:4]
                if name not in storages:
                    raw = bytearray(archive.read(f"{entry.removesuffix('data.pkl')}data/{name}"))
                    storages[name] = torch.frombuffer(raw, dtype=getattr(torch, dtype)) if raw else torch.empty(0)
                state[key] = storages[name].as_strided(size, stride, offset)  # never beyond the storage: torch checks
    except WeightsError:
        raise
    except Exception as error:  # a pickle can be wrong in every way
        raise WeightsError(
            f"{path}: expected a torch weight file (a zip archive with data.pkl, torch 1.6 or newer), but it is another or damaged: "
            f"{type(error).__name__}: {error}. Fetch it again."
        ) from error
    return state


def is_leftover(key: str) -> bool:
    """Returns whether no model computes with an official tensor: a leftover of pre-training, or a table that `Schedule` makes anew."""
    return key in ("backbone.cls_token", "backbone.pos_embed") or (key.startswith("lddiffuse.") and not key.startswith("lddiffuse.unet."))


def official_name(key: str, network: str = "unet") -> str:
    """Returns the official name of a tracker's parameter; `network` is U's kind, "unet" or "uvit"."""
    prefix = next((p for p in PREFIXES if key.startswith(p)), "")
    rest = key[len(prefix) :]
    return PREFIXES.get(prefix, "") + (rename(rest, network) if prefix == "fusion.network." else rest)


def released_fusion(state: dict[str, Tensor], channels: int) -> DiffusionFusion:
    """Returns GMMT as the released code has it, with a U without memory, of the size that a state dict (names of lddiffuse.unet) tells."""
    blocks = {k.split(".")[1] for k in state if k.startswith("in_blocks.") or (k.startswith("downs.") and ".res_block." in k)}
    with torch.device("meta"):
        if "pos_embed" in state:
            conditions, (_, n, dim) = state["down.weight"].shape[1] // channels - 1, state["pos_embed"].shape
            u = UViT(channels, len(blocks), conditions, dim, size=math.isqrt(n), form="released")
        else:
            inner, width, *_ = state["downs.0.weight"].shape
            conditions = width // channels - 1
            u = UNet(channels, len(blocks), conditions, inner, form="released")
    return DiffusionFusion(u, channels, conditions, **PRESETS["released"])


def load_official(kind: str, path: Path | str, **options) -> OneStream:
    """Returns the tracker of an official weight file, in evaluation mode; its `leftovers` names what in the file is no part of it.

    A file of TBSI may hold GMMT, too. (The U of the first release wants a third condition, which the release does not define: it loads,
    and cannot be run.) Without GMMT in the file, head "stage2" is new and untrained.

    Args:
        kind: "ostrack", "vipt" or "tbsi".
        options: those of the tracker's class, where the file's model is not of the official size.

    Raises:
        WeightsError: see `read_state`; or the file is another tracker's, or of another size: names and shapes that differ are listed.
    """
    if kind not in KINDS:
        raise WeightsError(f"unknown kind of weights {kind!r}: expected one of {', '.join(KINDS)}")
    state = read_state(path)
    seen = "tbsi" if any(".tbsi_layers." in k for k in state) else "vipt" if any(".prompt_blocks." in k for k in state) else "ostrack"
    if seen != kind and "backbone.norm.weight" in state:
        raise WeightsError(f"{path}: expected weights of {kind}, but these are {seen}'s: use load_official({seen!r}, ...)")
    with torch.device("meta"):
        tracker = KINDS[kind](**options)
    u = {k.removeprefix("lddiffuse.unet."): v for k, v in state.items() if k.startswith("lddiffuse.unet.")}
    tracker.fusion = released_fusion(u, tracker.channels) if u else None
    tracker.leftovers = tuple(filter(is_leftover, state))
    new = ["fusion.mean", "fusion.std"] + ([] if any(k.startswith("ldd_head.") for k in state) else ["head.stage2."])
    names = {k: official_name(k, "uvit" if "pos_embed" in u else "unet") for k in tracker.state_dict() if not k.startswith(tuple(new))}
    expected = {names[k]: list(v.shape) for k, v in tracker.state_dict().items() if k in names}
    given = {k: list(v.shape) for k, v in state.items() if not is_leftover(k)}
    wrong = {
        "missing": expected.keys() - given.keys(),
        "unknown": given.keys() - expected.keys(),
        "of another shape": {f"{k} {given[k]}, expected {v}" for k, v in expected.items() if given.get(k, v) != v},
    }
    if any(wrong.values()):
        lists = (f"{len(v)} {what}: {'; '.join(sorted(v)[:5])}{' ...' if len(v) > 5 else ''}" for what, v in wrong.items() if v)
        size = ", ".join(f"{k}={v}" for k, v in options.items()) or "the official size"
        raise WeightsError(f"{path}: expected the tensors of {kind} ({size}); {'. '.join(lists)}. Give another size as dim=..., depth=...")
    tracker.load_state_dict({k: state[name] for k, name in names.items()}, strict=False, assign=True)
    if "head.stage2." in new and "stage2" in tracker.head:
        tracker.head["stage2"] = CentreHead(tracker.channels, tracker.head["base"].conv1_ctr[0].out_channels)
    return tracker.eval()
