"""Official weights of OSTrack, ViPT, TBSI and TBSI with GMMT, in our trackers."""

import fnmatch
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gmmt.errors import WeightsError
from gmmt.fusion import DiffusionFusion
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.heads import CentreHead
from gmmt.trackers.released_names import OURS_ALONE, RELEASED_U, released_names
from gmmt.trackers.tbsi import TBSI
from gmmt.trackers.torch_file import read_state
from gmmt.trackers.vipt import ViPT
from gmmt.trackers.vit import OneStream, OSTrack

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
LEFTOVERS = ("backbone.cls_token", "backbone.pos_embed")  # of a ViT's pre-training, not used here
LEFTOVERS += tuple(f"lddiffuse.{name}" for name in SCHEDULE.split())


def load_official(kind: str, path: Path | str, **options) -> OneStream:
    """The tracker of an official weight file, in evaluation mode; its `leftovers` names what in the
    file is no part of it.

    A file of TBSI may hold GMMT, too. (The U of the first release wants a third condition, which
    the release does not define: it loads, and cannot be run.) Without GMMT in the file, head
    "stage2" is new and untrained.

    `kind` is one of KINDS; `options` are those of its class, where the file's model is not of the
    official size, or is to get its images in another way than RELEASED_INPUT says.

    WeightsError: see `read_state`; or the file is another tracker's, or of another size: names and
        shapes that differ are listed.
    """
    if kind not in KINDS:
        raise WeightsError(f"unknown kind of weights {kind!r}: expected one of {', '.join(KINDS)}")
    state = read_state(path)
    found = kind_of(state)
    if found != kind and "backbone.norm.weight" in state:
        raise WeightsError(
            f"{path}: expected weights of {kind}, but these are {found}'s: ask for {found!r}"
        )
    try:
        return make_official(kind, state, **options)
    except RuntimeError as error:  # torch names what is missing, unexpected or of another shape
        size = ", ".join(f"{k}={v}" for k, v in options.items()) or "the official size"
        raise WeightsError(
            f"{path}: expected the tensors of {kind} ({size}); others: dim=..., depth=.... "
            f"{error!s:.2000}"
        ) from None


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
