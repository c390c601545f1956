"""What the released code calls our parameters: one table for each network and for the trackers.

Official weight files name their tensors. Tensors are matched by these names alone, never by their
order or shape. No tensor changes its shape. Only the released form of a network has every name.
"""

import re

from torch import nn

from gmmt.errors import WeightsError
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.vit import OneStream


def inside(ours: str, released: str, parts: dict[str, str]) -> dict[str, str]:
    """The lines of a table for a part whose own parts have other names, too."""
    return {f"{ours}.{part}": f"{released}.{name}" for part, name in parts.items()}


# The tables: the released name of a part by our name, in which N is the number of a block.
UNET_BLOCK = {
    "shift": "res_block.noise_func.noise_func.0",
    "norm_1": "res_block.block1.block.0",
    "conv_1": "res_block.block1.block.3",
    "norm_2": "res_block.block2.block.0",
    "conv_2": "res_block.block2.block.3",
    "match": "res_block.res_conv",
    "attention": "attn",
    "conv": "conv",  # of the blocks that halve or double a map
}
UNET = {
    "time.0": "noise_level_mlp.1",
    "time.2": "noise_level_mlp.3",
    "inlet": "downs.0",
    **inside("down.N", "downs.N+1", UNET_BLOCK),  # the inlet has number 0
    **inside("middle.N", "mid.N", UNET_BLOCK),
    **inside("up.N", "ups.N", UNET_BLOCK),
    "outlet.0.norm": "final_conv.block.0",
    "outlet.0.conv": "final_conv.block.3",
    "outlet.1.norm": "final_conv2.block.0",
    "outlet.1.conv": "final_conv2.block.3",
    "norm": "norm",
}
UVIT_BLOCK = {
    "norm_1": "norm1",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "norm_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "merge": "skip_linear",
}
UVIT = {
    "position": "pos_embed",
    "inlet": "down",
    **inside("down.N", "in_blocks.N", UVIT_BLOCK),
    **inside("middle", "mid_block", UVIT_BLOCK),
    **inside("up.N", "out_blocks.N", UVIT_BLOCK),
    "norm": "norm",
    "outlet": "decoder_pred",
    "smooth": "final_layer",
    "norm_out": "norm2",
}
RELEASED_U = "lddiffuse.unet"
TRACKER = {
    "backbone": "backbone",
    "fuse": "tbsi_fuse_search",
    "head.rgb": "box_head",  # OSTrack has this head alone,
    "head.base": "box_head",  # and the others never have it
    "head.stage2": "ldd_head",
}
OURS_ALONE = ("fusion.mean", "fusion.std")
"""Parameters of a tracker that the released code does not have: GMMT's normalisation."""


def table_of(module: nn.Module) -> dict[str, str]:
    """WeightsError: neither a UNet, a UViT nor a tracker with a ViT."""
    if isinstance(module, UNet):
        return UNET
    if isinstance(module, UViT):
        return UVIT
    if not isinstance(module, OneStream):
        found = type(module).__name__
        raise WeightsError(f"expected a UNet, a UViT or a tracker with a ViT, but got a {found}")
    network = getattr(module.fusion, "network", None)
    if network is None:
        return TRACKER
    return TRACKER | inside("fusion.network", RELEASED_U, table_of(network))


def released_names(module: nn.Module) -> dict[str, str]:
    """The released name of every parameter and buffer, by our name, in our order; without a
    tracker's OURS_ALONE. WeightsError: the module, or a parameter, has no released form.
    """
    table = table_of(module)
    return {k: released_name(k, table) for k in module.state_dict() if k not in OURS_ALONE}


def released_name(key: str, table: dict[str, str]) -> str:
    """The released name of one parameter; WeightsError: it is in no part of the table."""
    for ours, released in table.items():
        pattern = ours.replace(".", r"\.").replace("N", r"(\d+)")
        found = re.match(rf"{pattern}(?=\.|$)", key)
        if found is None:
            continue
        if "N" in ours:
            number = int(found[1])
            released = released.replace("N+1", str(number + 1)).replace("N", str(number))
        return released + key[found.end() :]
    raise WeightsError(f"{key!r} has no name in the released code; see released_names.py")
