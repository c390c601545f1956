"""The names that the released code gives to our networks' parameters, both ways.

One table for each network says which prefix stands for which; within a block a second one does. No
tensor changes its shape, and the order of the keys is the same on both sides. Only the released
form of a network has all of the keys.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from gmmt.networks.uvit import UViT
from gmmt.trackers import official

MANY = 64  # more blocks than any network has

# fmt: off
UNET = [
    ("time.0", "noise_level_mlp.1"), ("time.2", "noise_level_mlp.3"), ("inlet", "downs.0"),
    *((f"down.{i}", f"downs.{i + 1}") for i in range(MANY)),
    *((f"middle.{i}", f"mid.{i}") for i in range(2)),
    *((f"up.{i}", f"ups.{i}") for i in range(MANY)),
    ("outlet.0.norm", "final_conv.block.0"), ("outlet.0.conv", "final_conv.block.3"),
    ("outlet.1.norm", "final_conv2.block.0"), ("outlet.1.conv", "final_conv2.block.3"), ("norm", "norm"),
]
UNET_BLOCK = [
    ("shift", "res_block.noise_func.noise_func.0"), ("norm_1", "res_block.block1.block.0"), ("conv_1", "res_block.block1.block.3"),
    ("norm_2", "res_block.block2.block.0"), ("conv_2", "res_block.block2.block.3"), ("match", "res_block.res_conv"), ("attention", "attn"),
]
UVIT = [
    ("position", "pos_embed"), ("inlet", "down"),
    *((f"down.{i}", f"in_blocks.{i}") for i in range(MANY)),
    ("middle", "mid_block"),
    *((f"up.{i}", f"out_blocks.{i}") for i in range(MANY)),
    ("norm", "norm"), ("outlet", "decoder_pred"), ("smooth", "final_layer"), ("norm_out", "norm2"),
]
UVIT_BLOCK = [
    ("norm_1", "norm1"), ("qkv", "attn.qkv"), ("out", "attn.proj"), ("norm_2", "norm2"), ("mlp.0", "mlp.fc1"), ("mlp.2", "mlp.fc2"),
    ("merge", "skip_linear"),
]
# fmt: on


def _swap(key: str, table: list[tuple[str, str]], to_ours: bool) -> str | None:
    for pair in table:
        new, old = pair if to_ours else pair[::-1]
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return None


def rename(key: str, network: str, to_ours: bool = False) -> str:
    """Returns a parameter's released name from ours, or ours from the released one; `network` is
    "unet" or "uvit".

    Raises:
        KeyError: the table has no such name.
    """
    table, block = {"unet": (UNET, UNET_BLOCK), "uvit": (UVIT, UVIT_BLOCK)}[network]
    swapped = _swap(key, table, to_ours)
    if swapped is None:
        raise KeyError(
            f"{key!r} is no parameter of the {'released' if to_ours else ''} {network}; see "
            "tests/released.py"
        )
    prefixes = [pair[0 if to_ours else 1] for pair in table]
    prefix = max((p for p in prefixes if swapped == p or swapped.startswith(p + ".")), key=len)
    inner = swapped[len(prefix) + 1 :]
    swapped_inner = _swap(inner, block, to_ours)
    return (
        f"{prefix}.{swapped_inner}"
        if swapped_inner and prefix not in ("norm", "norm_out", "norm2")
        else swapped
    )


def released_state(network: nn.Module) -> dict[str, Tensor]:
    """Returns a network's state dict under the released names, in the released order."""
    kind = "uvit" if isinstance(network, UViT) else "unet"
    return {rename(key, kind): value for key, value in network.state_dict().items()}


def load_released(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state dict with released names; raises RuntimeError naming every missing, unexpected
    or differently shaped key.
    """
    kind = "uvit" if isinstance(network, UViT) else "unet"
    network.load_state_dict(
        {rename(key, kind, to_ours=True): value for key, value in state.items()}
    )


def official_name(key: str, network: str = "unet") -> str:
    """Returns the official name of a tracker's parameter; `network` is U's kind, "unet" or
    "uvit".
    """
    own = key.removeprefix("fusion.network.")
    return official.official_name(key) if own == key else official.U + rename(own, network)
