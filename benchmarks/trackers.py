"""The transformer trackers at full size, alone and with GMMT: parameters, arithmetic, time of a
frame; and the official TBSI's arithmetic.

    python -m benchmarks.trackers [--quick] [--threads N] [--rounds N]

A frame is one search patch against a template that is already embedded; cropping is not in it.
Weights are random: nothing here depends on their values. Counted are the parameters that the mode
uses. GFLOP count a multiply-add as two; s = 1 step of DM.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks.fusion import bf16_instructions, build, processor, verdict

FLOP_BOUND = 0.9


def cases(quick: bool) -> tuple[dict, dict]:
    """What makes each tracker, and what makes each U, by name."""
    from gmmt.networks.unet import UNet
    from gmmt.networks.uvit import UViT
    from gmmt.trackers.tbsi import TBSI
    from gmmt.trackers.vipt import ViPT
    from gmmt.trackers.vit import OSTrack

    small, keep, bridges, c, n, deep, unet, uvit = {}, {}, {}, 768, 9, 8, {}, {}
    if quick:
        sizes = {"dim": 48, "depth": 4, "heads": 4, "patch": 8, "template": 32, "search": 64}
        small, keep, bridges = {"hidden": 16, **sizes}, {"keep": {1: 0.7}}, {"at": (0, 1)}
        c, n, deep, unet, uvit = 48, 3, 2, {"groups": 8}, {"heads": 5}
    trackers = {
        "OSTrack (RGB alone)": lambda: OSTrack(**small, **keep),
        "ViPT": lambda: ViPT(**small, **keep),
        "TBSI": lambda: TBSI(**small, **bridges),
    }
    networks = {
        f"UNet n={n}": lambda: UNet(c, n, **unet),
        "UViT n=1": lambda: UViT(c, 1, **uvit),
        f"UViT n={deep}": lambda: UViT(c, deep, **uvit),
    }
    return trackers, networks


def crops(tracker, device: str = "cpu") -> tuple:
    """A template crop and a search crop [1, 4, H, W]."""
    import torch

    draw = torch.Generator().manual_seed(0)
    sizes = tracker.crops.template, tracker.crops.search
    return tuple(
        (255 * torch.rand(1, 4, size, size, generator=draw, device="cpu")).to(device)
        for size in sizes
    )


def flops(tracker, mode: str, official: bool = False) -> float:
    """GFLOP of a frame of a tracker on the meta device; `official` counts TBSI's template embedding
    and dropped tokens, too.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode():
        first, frame = crops(tracker, "meta")
        z = tracker.encode_template(first, mode)
        with FlopCounterMode(display=False) as counter:
            if official:
                official_search(tracker, first, frame, mode)
            else:
                tracker.search(z, frame, mode)
    return counter.get_total_flops() / 1e9


def official_bridge(module, x, source):
    """What TBSI's bridge does, computed as in the official code: with a perceptron on
    tokens that are dropped.
    """
    import torch
    import torch.nn.functional as F

    n, tokens = x.shape[1], torch.cat([x, source], dim=1)
    query, key = module.norm1(tokens).split([n, source.shape[1]], dim=1)
    y = F.scaled_dot_product_attention(query, key, key, scale=module.scale).mT.reshape(x.shape)
    tokens = tokens + torch.cat([module.attn_reshape["proj"](y), key], dim=1)
    return (tokens + module.mlp(module.norm2(tokens)))[:, :n]


def official_search(tracker, first, frame, mode: str):
    """TBSI's answer, computed as in the official code; without the fusion convolution where
    GMMT takes its place, as in ours.
    """
    from unittest.mock import patch

    import torch

    from gmmt.trackers.tbsi import Bridge

    b = tracker.backbone
    with patch.object(Bridge, "forward", official_bridge):
        z = tracker.encode_template(first, mode).transpose(0, 1).flatten(0, 1)
        x = b.embed(torch.cat(tracker.images(frame)), b.pos_embed_x)
        f_rgb, f_tir = tracker.map(b(z, x)).chunk(2)
    if mode == "base":
        fused = tracker.fuse(torch.cat([f_rgb, f_tir], dim=1))
    else:
        fused = tracker.fusion.sample(f_rgb, f_tir)
    return tracker.head[mode](None, fused)


def with_fusion(make, network, fusion):
    """The tracker with a U in it, if any, and without the heads that its mode does not
    use.
    """
    tracker = make()
    mode = "stage2" if network else next(iter(tracker.head))
    for other in set(tracker.head) - {mode}:
        del tracker.head[other]
    if network:
        tracker.fusion = fusion(network(), tracker.channels)
    return tracker


def measure(make, network, device: str, rounds: int) -> dict:
    """A row: parameters, GFLOP, seconds of a frame in float32 and bf16 (all weights cast
    once), and bf16's relative error.
    """
    import torch

    from gmmt.fusion import DiffusionFusion, OneCall

    with torch.device("meta"):
        bare = with_fusion(make, network, OneCall).eval()  # the same work as one step of DM
    mode = next(iter(bare.head))
    row = {"M": sum(p.numel() for p in bare.parameters()) / 1e6, "GFLOP": flops(bare, mode)}
    tracker = build(lambda: with_fusion(make, None, None), device)
    if network:
        tracker.fusion = DiffusionFusion(build(network, device), tracker.channels).to(device).eval()
        tracker.head = torch.nn.ModuleDict({"stage2": tracker.head["base"]})
    first, frame = crops(tracker, device)
    for dtype in (torch.float32, torch.bfloat16):
        tracker.to(dtype)
        row[dtype] = []
        with torch.inference_mode():
            z = tracker.encode_template(first, mode)
            for k in range(rounds + 1):
                start = time.perf_counter()
                answer = tracker.search(z, frame, mode, draws=torch.Generator().manual_seed(0))
                if device == "cuda":
                    torch.cuda.synchronize()
                if k:
                    row[dtype].append(time.perf_counter() - start)
        row[dtype, "answer"] = answer
    exact, rough = (row[t, "answer"][2].float() for t in (torch.float32, torch.bfloat16))
    row["error"] = ((rough - exact).norm() / exact.norm()).item()
    return row


def main(argv: Sequence[str] = ()) -> None:
    """Prints the comparison with the official TBSI, and the table."""
    import torch

    from gmmt.fusion import OneCall

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trackers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small trackers, for a try in seconds")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of torch on a CPU (default 2)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times that each thing is measured, after one warm-up (default 3)",
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trackers, networks = cases(options.quick)

    print(
        "TBSI's arithmetic, ours and as in the official code (perceptrons on tokens that are "
        "dropped, the template embedded every frame)"
    )
    with torch.device("meta"):
        tracker = trackers["TBSI"]().eval()
    for name, mode, network in (
        ("TBSI", "base", None),
        ("TBSI + GMMT(UViT n=1)", "stage2", networks["UViT n=1"]),
    ):
        if network:
            with torch.device("meta"):
                tracker.fusion = OneCall(network(), tracker.channels).eval()
        ours, theirs = flops(tracker, mode), flops(tracker, mode, official=True)
        shown = verdict(ours / theirs, FLOP_BOUND)
        print(f"  {name:24s} ours {ours:.1f} GFLOP a frame, official {theirs:.1f}: {shown}")
    small = build(lambda: cases(True)[0]["TBSI"](), device)
    first, frame = crops(small, device)
    with torch.inference_mode():
        ours = small.search(small.encode_template(first, "base"), frame, "base")
        theirs = official_search(small, first, frame, "base")
    print(
        "  a small TBSI's answers differ by "
        f"{max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)):.1e} at "
        "most\n"
    )

    print(
        f"trackers on {processor(device)}, {options.threads} threads, torch "
        f"{torch.__version__}, one frame, n = {options.rounds} rounds"
    )
    print(
        f"bf16 instructions: {bf16_instructions(device) or 'none'}; ms are medians; error: "
        "relative, of the offset map in bf16\n"
    )
    print(
        f"{'':28s}{'M':>8s}{'GFLOP':>8s}{'ms':>9s}{'fps':>7s}{'ms bf16':>9s}{'fps':>7s}"
        f"{'error':>8s}"
    )
    for name, make in trackers.items():
        for u, network in ({"": None} | (networks if "RGB" not in name else {})).items():
            row = measure(make, network, device, options.rounds)
            full, half = (statistics.median(row[t]) for t in (torch.float32, torch.bfloat16))
            label = name + (f" + GMMT({u})" if u else "")
            print(
                f"{label:28s}{row['M']:8.1f}{row['GFLOP']:8.1f}"
                f"{1e3 * full:9.1f}{1 / full:7.1f}{1e3 * half:9.1f}{1 / half:7.1f}"
                f"{row['error']:8.3f}",
                flush=True,
            )
            gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
