"""Official weights of OSTrack, ViPT, TBSI and TBSI with GMMT, in our trackers."""

import fnmatch
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gmmt.errors import SettingError, WeightsError
from gmmt.fusion import DiffusionFusion
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.heads import CentreHead
from gmmt.trackers.released_names import OURS_ALONE, RELEASED_U, released_names
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.torch_file import read_state
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import ELIMINATION, OneStream, OSTrack

KINDS = {"ostrack": OSTrack, "vipt": ViPT, "tbsi": TBSI}

RELEASED_INPUT = {kind: {"whole_pixels": "ostrack"} for kind in KINDS}
RELEASED_INPUT["tbsi"].update(tir_mean=(0.449,) * 3, tir_std=(0.226,) * 3)
"""How the official models got their images, where it is not our default: crops begin and end at
whole pixels, and TBSI standardises thermal images in its own way.
"""
# Official tensors that no model of ours has are leftovers.
SCHEDULE = """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod
    sqrt_one_minus_alphas_cumprod log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod
    sqrt_recipm1_alphas_cumprod posterior_variance posterior_log_variance_clipped
    posterior_mean_coef1 posterior_mean_coef2"""  # tables, which our `Schedule` makes anew
AVERAGED = "n_averaged"  # AveragedModel's count of what it averaged
LEFTOVERS = ("backbone.cls_token", "backbone.pos_embed")  # of a ViT's pre-training, not used here
LEFTOVERS += (AVERAGED, *(f"lddiffuse.{name}" for name in SCHEDULE.split()))

LONG_LIST = re.compile(r'((?:"[^"]+", ){9}"[^"]+")(?:, "[^"]+")+')  # the first ten of more names


def load_official(
    kind: str, path: Path | str, *, elimination: bool | None = None, **options
) -> OneStream:
    """The tracker of an official weight file, in evaluation mode and float32; its `leftovers` names
    what in the file is no part of it.

    A file of TBSI may hold GMMT, too. (The U of the first release wants a third condition, which
    the release does not define: it loads, and cannot be run.) Without GMMT in the file, head
    "stage2" is new and untrained.

    Args:
        kind: one of KINDS.
        elimination: whether the model drops search tokens on its way (candidate elimination). The
            tensors of an OSTrack are the same with and without, its answers are not: here it must
            be said. Official names tell: "vitb_256_mae_ce_32x4_ep300" (`_ce_`) is with,
            "vitb_256_mae_32x4_ep300" without. None for the others: ViPT with, TBSI without, as
            their official code has it.
        options: those of the kind's class, where the file's model is not of the official size
            (template=192, search=384), or is to get its images in another way than RELEASED_INPUT
            says; `keep` says where tokens are eliminated, in place of `elimination`.

    WeightsError: see `read_state`; or the file is another tracker's, or of another size: names and
        shapes that differ are listed, with the options that fit; or a weight is not finite.
    SettingError: `elimination` is to be said.
    """
    if kind not in KINDS:
        raise WeightsError(f"unknown kind of weights {kind!r}: expected one of {', '.join(KINDS)}")
    state = without_prefix(read_state(path))
    found = kind_of(state)
    if found != kind and "backbone.norm.weight" in state:
        raise WeightsError(
            f"{path}: expected weights of {kind}, but these are {found}'s: ask for {found!r}"
        )
    if elimination is not None:
        options = {"keep": ELIMINATION if elimination else {}} | options
    if kind == "ostrack" and "keep" not in options:
        raise SettingError(
            f"{path}: the tensors of an OSTrack do not tell whether it was trained with candidate "
            "elimination, and its answers depend on it. Pass elimination=True (--elimination) if "
            "the model's name has `_ce_` in it, as in vitb_256_mae_ce_32x4_ep300, and "
            "elimination=False (--no-elimination) if not"
        )
    state = {name: in_float32(name, value, path) for name, value in state.items()}
    try:
        tracker = make_official(kind, state, **options)
    except RuntimeError as error:  # torch names what is missing, unexpected or of another shape
        size = ", ".join(f"{k}={v}" for k, v in options.items()) or "the official size"
        words = LONG_LIST.sub(r"\1, ...", str(error))
        raise WeightsError(
            f"{path}: expected the tensors of {kind} ({size}).{other_size(kind, state, options)} "
            f"{words:.2000}"
        ) from None
    if tracker.crops.search == 384:  # official models of this size search 5 times the target's side
        tracker.crops = replace(tracker.crops, wider=5 / 4)
    return tracker


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict without what wrappers put into names: "_orig_mod." of
    torch.compile anywhere, and before every name "module." of DataParallel, "net.", ...
    """
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    end = "backbone.norm.weight"
    prefixes = [name.removesuffix(end) for name in state if name.endswith(f".{end}")]
    wrapped = [name for name in state if name != AVERAGED]
    if len(prefixes) != 1 or not all(name.startswith(prefixes[0]) for name in wrapped):
        return state
    return {name.removeprefix(prefixes[0]): value for name, value in state.items()}


def in_float32(name: str, value: Tensor, path: Path | str) -> Tensor:
    """A weight of any precision in float32, a count as it is. WeightsError: it is not finite, or
    cannot have been trained: a matrix of zeros, a variance below zero.
    """
    if not value.is_floating_point():
        return value
    value, found = value.float(), None
    if not bool(value.isfinite().all()):
        found = "NaN or infinite numbers"
    elif name.endswith(".running_var") and bool((value < 0).any()):
        found = "variances below zero"
    elif name.endswith(".weight") and value.ndim > 1 and not bool(value.any()):
        found = "only zeros"
    if found and name not in LEFTOVERS:
        raise WeightsError(
            f"{path}: {name!r} holds {found}; expected trained weights. Was the training that "
            "saved them broken? Take a file of an earlier epoch, or fetch it again"
        )
    return value


def other_size(kind: str, state: Mapping[str, Tensor], options: Mapping) -> str:
    """A sentence with the options that a file's own shapes ask for, where `options` or the official
    size are others; nothing where there are none. The command line has no such options.
    """
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        patch = shapes["backbone.patch_embed.proj.weight"][-1]
        own = {
            "dim": shapes["backbone.norm.weight"][0],
            "depth": len(fnmatch.filter(state, "backbone.blocks.*.norm1.weight")),
            "patch": patch,
            "template": math.isqrt(shapes["backbone.pos_embed_z"][1]) * patch,
            "search": math.isqrt(shapes["backbone.pos_embed_x"][1]) * patch,
            "hidden": shapes["box_head.conv1_ctr.0.weight"][0],
        }
    except (KeyError, IndexError):
        return ""
    asked = {k: p.default for k, p in inspect.signature(KINDS[kind]).parameters.items()} | options
    other = [f"{name}={value}" for name, value in own.items() if value != asked[name]]
    if own["dim"] != asked["dim"]:
        other.append("heads=... (no tensor tells how many; usually dim / 64)")
    if not other:
        return ""
    return (
        f" The file's own size is another: load_official({kind!r}, FILE, {', '.join(other)}) in "
        "Python loads it; the command line takes the official size only."
    )


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Which kind of tracker an official state dict is of."""
    if fnmatch.filter(state, "*.tbsi_layers.*"):
        return "tbsi"
    if fnmatch.filter(state, "*.prompt_blocks.*"):
        return "vipt"
    return "ostrack"


def make_official(kind: str, state: Mapping[str, Tensor], **options) -> OneStream:
    """The tracker with the tensors of an official state dict, not copies of them.

    RuntimeError: names or shapes are not those of a `kind` with these options; it lists them.
    """
    # 1. A tracker without memory, but for what no file has: GMMT's mean and spread, a new head.
    with torch.device("meta"):
        tracker = KINDS[kind](**(RELEASED_INPUT[kind] | options))
    prefix = RELEASED_U + "."
    u = {k.removeprefix(prefix): v.shape for k, v in state.items() if k.startswith(prefix)}
    if u:
        tracker.fusion = released_fusion(u, tracker.channels)
    new = OURS_ALONE
    if "stage2" in tracker.head and not fnmatch.filter(state, "ldd_head.*"):
        hidden = tracker.head["base"].conv1_ctr[0].out_channels
        tracker.head["stage2"] = CentreHead(tracker.channels, hidden)
        new += ("head.stage2.",)

    # 2. Every tensor of the file under our name. One that has none keeps its own, which step 3
    #    reports.
    names = {released: ours for ours, released in released_names(tracker).items()}
    ours = {key: value for key, value in tracker.state_dict().items() if key.startswith(new)}
    for key, value in state.items():
        if key not in LEFTOVERS:
            ours[names.get(key, key)] = value
    tracker.leftovers = tuple(key for key in state if key in LEFTOVERS)

    # 3. The file's tensors take the place of those without memory.
    tracker.load_state_dict(ours, assign=True)
    return tracker.eval()


def released_fusion(u: dict[str, torch.Size], channels: int) -> DiffusionFusion:
    """GMMT as the released code has it, with a U without memory, of the size that the shapes `u` of
    its tensors tell. RuntimeError: there is no such U.
    """
    try:
        with torch.device("meta"):
            if "pos_embed" in u:
                dim, width = u["down.weight"]  # of all maps that U gets, one token
                conditions = width // channels - 1
                n_blocks = len(fnmatch.filter(u, "in_blocks.*.norm1.weight"))
                size = math.isqrt(u["pos_embed"][1])  # 1 + size * size positions
                network = UViT(channels, n_blocks, conditions, dim, size=size, form="released")
            else:
                inner, width, *_ = u["downs.0.weight"]
                conditions = width // channels - 1
                n_blocks = len(fnmatch.filter(u, "downs.*.res_block.block1.block.0.weight"))
                network = UNet(channels, n_blocks, conditions, inner, form="released")
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise RuntimeError(f"no U of GMMT has the sizes in the file: {error}") from error
    return DiffusionFusion(network, channels, conditions, weighting="released", time="level")
