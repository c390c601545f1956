"""The network U at the paper's sizes: time, arithmetic, memory and parameters for s = 1, 5, 10,
beside diffusers' UNet2DModel.

    python -m benchmarks.fusion [--quick] [--threads N] [--rounds N]

What is timed stands in one process and takes turns, so that a drifting machine hits all alike; a
ratio is the median of paired ratios. Weights are random: nothing here depends on their values.
GFLOP count a multiply-add as two.
"""

import argparse
import contextlib
import copy
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SAMPLER_BOUND, BF16_BOUND, FOLD_TOLERANCE = 1.05, 0.6, 1e-5


def cases(quick: bool) -> list[tuple[str, int, int, Callable, Callable | None]]:
    """Returns (name, channels, size, makes our network, makes diffusers' or None) for each
    network.
    """
    from gmmt.networks.unet import UNet
    from gmmt.networks.uvit import UViT

    wide, narrow, n = (48, 32, 3) if quick else (768, 256, 9)
    groups, heads, deep = (8, 5, 2) if quick else (32, 12, 8)
    return [
        (
            f"UNet n={n} released {wide}x16x16",
            wide,
            16,
            lambda: UNet(wide, n, groups=groups, form="released"),
            lambda: yardstick(wide, 16, n, groups),
        ),
        (f"UNet n={n} paper {wide}x16x16", wide, 16, lambda: UNet(wide, n, groups=groups), None),
        (f"UViT n=1 {wide}x16x16", wide, 16, lambda: UViT(wide, 1, heads=heads), None),
        (f"UViT n={deep} {wide}x16x16", wide, 16, lambda: UViT(wide, deep, heads=heads), None),
        (
            f"UNet n={n} released {narrow}x31x31",
            narrow,
            31,
            lambda: UNet(narrow, n, groups=groups, form="released"),
            None,
        ),
    ]


def yardstick(channels: int, size: int, n: int, groups: int):
    """Returns diffusers' UNet2DModel with the released UNet's widths and number of blocks: 9 down,
    12 up and 2 middle for n = 9.
    """
    import diffusers

    # it tells that attention_head_dim is not given; the default is one head, which is ours
    diffusers.utils.logging.set_verbosity_error()
    return diffusers.UNet2DModel(
        sample_size=size,
        in_channels=3 * channels,
        out_channels=channels,
        block_out_channels=(channels, int(1.5 * channels), 2 * channels),
        layers_per_block=n // 3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_num_groups=groups,
    )


def cost(make: Callable, forward: Callable) -> tuple[float, float]:
    """Returns (millions of parameters, GFLOP of one call) of a network that is never given
    memory.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network = make().eval()
        forward(network)
    return sum(p.numel() for p in network.parameters()) / 1e6, counter.get_total_flops() / 1e9


def build(make: Callable, device: str):
    """Returns the network in evaluation mode with random weights of unit gain, without the slow
    default initialisation.
    """
    import torch

    with torch.device("meta"):
        network = make()
    network = network.to_empty(device=device).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim > 1:
                bound = (3 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-bound, bound)
            else:
                tensor.fill_(name.endswith(("weight", "running_var")))
    return network


def in_turn(works: Mapping[str, Callable], rounds: int, device: str) -> dict[str, list[float]]:
    """Returns the seconds of `rounds` runs of each work, taken in turn after one warm-up."""
    import torch

    seconds = {name: [] for name in works}
    for i in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


class Peak:
    """The most memory in use since it was made, in GiB: of the GPU, or of this process where Linux
    tells; else not a number.
    """

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text(
                    "5"
                )  # sets the high-water mark back to the present

    def __call__(self) -> float:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**30
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
        return float("nan")


def bf16_instructions(device: str) -> str:
    """Returns which bfloat16 instructions the processor has, or an empty text."""
    if device == "cuda":
        import torch

        return "GPU" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    with contextlib.suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text().split())
        return " ".join(f for f in ("avx512_bf16", "amx_bf16", "bf16") if f in flags)
    return ""


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Returns the median of the paired ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def verdict(value: float, bound: float) -> str:
    """Returns the value beside its bound."""
    return f"{value:.3g} (bound {bound:g}: {'kept' if value <= bound else 'NOT kept'})"


def measure(name: str, channels: int, size: int, make: Callable, device: str, rounds: int) -> dict:
    """Returns one network's row: parameters, GFLOP, memory, seconds of every work, relative error
    of bf16, error of folding (UNet).
    """
    import torch

    from gmmt.fusion import DiffusionFusion

    def ours(net, x, *given):
        return net(x, torch.zeros(1, device=x.device), *given)

    row = {"name": name}
    row["M"], row["GFLOP"] = cost(make, lambda net: ours(net, *maps(channels, size)))
    fusion = DiffusionFusion(build(make, device), channels).to(device).eval()
    draw = torch.Generator().manual_seed(0)
    x, f_1, f_2 = torch.randn(3, 1, channels, size, size, generator=draw).to(device)
    t = torch.full((1,), 999, device=device)

    def sample(steps: int, bf16: bool = False):
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            return fusion.sample(
                f_1, f_2, steps=steps, generator=torch.Generator().manual_seed(0)
            ).float()

    def bare(calls: int):
        with torch.inference_mode():
            for _ in range(calls):
                fusion.network(x, t, f_1, f_2)

    for bf16, key in ((False, "GiB"), (True, "GiB bf16")):
        peak = Peak(device)
        sample(1, bf16)
        row[key] = peak()
    works = {f"s={s}": lambda s=s: sample(s) for s in (1, 5, 10)} | {"ten calls": lambda: bare(10)}
    works |= {f"s={s} bf16": lambda s=s: sample(s, True) for s in (1, 5, 10)}
    fast = copy.deepcopy(fusion).eval()
    fast.network.to(torch.bfloat16)  # once; autocast casts the weights at every call

    def cast_once():
        with torch.inference_mode():
            return fast.sample(f_1, f_2, generator=torch.Generator().manual_seed(0))

    works["s=1 cast"] = cast_once
    row |= in_turn(works, rounds, device)
    exact = sample(1)
    for key, rough in (("bf16 error", sample(1, True)), ("cast error", cast_once())):
        row[key] = ((rough - exact).norm() / exact.norm()).item()
    if hasattr(fusion.network, "folded"):
        fusion.network = fusion.network.folded(999.0).eval()
        row["folded M"] = sum(p.numel() for p in fusion.network.parameters()) / 1e6
        folded = sample(1)
        row["folding error"], row["scale"] = (
            (folded - exact).abs().max().item(),
            exact.abs().max().item(),
        )
    return row


def maps(channels: int, size: int) -> list:
    """Returns x_t and the two conditions, all zeros."""
    import torch

    return [torch.zeros(1, channels, size, size) for _ in range(3)]


def beside(
    ours: Callable, theirs: Callable, channels: int, size: int, device: str, rounds: int
) -> dict:
    """Returns one call of our network beside one of diffusers': seconds of each, and diffusers'
    parameters and GFLOP.
    """
    import torch

    row = {}
    row["M"], row["GFLOP"] = cost(
        theirs, lambda net: net(torch.cat(maps(channels, size), 1), torch.zeros(1))
    )
    net, yard = build(ours, device), build(theirs, device)
    x, f_1, f_2 = torch.randn(3, 1, channels, size, size).to(device)
    t, joined = torch.full((1,), 999, device=device), torch.cat([x, f_1, f_2], 1)
    with torch.inference_mode():
        row |= in_turn(
            {"ours": lambda: net(x, t, f_1, f_2), "diffusers": lambda: yard(joined, t)},
            2 * rounds,
            device,
        )
    return row


def ms(seconds: Sequence[float]) -> str:
    """Returns the median in milliseconds."""
    value = 1e3 * statistics.median(seconds)
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def processor(device: str) -> str:
    """Returns the name of what the networks run on."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def main(argv: Sequence[str] = ()) -> None:
    """Prints the table."""
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    half = max(
        1, cores // 2
    )  # where anything else runs, threads on all cores wait for each other most of the time
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fusion", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small networks, for a try in seconds")
    parser.add_argument(
        "--threads",
        type=int,
        default=half,
        help=f"threads of torch on a CPU (default: half the cores, {half})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="times that each thing is measured, after one warm-up (default 3)",
    )
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bf16 = bf16_instructions(device)
    print(
        f"fusion: U on {processor(device)}, {given.threads} threads, torch "
        f"{torch.__version__}, batch 1, n = {given.rounds} rounds"
    )
    print(
        f"bf16 instructions: {bf16 or 'none'}; ms are medians; GFLOP of one call (a "
        "multiply-add is two); GiB: peak at s = 1\n"
    )

    head = ("float32", "float32", "float32", "bf16", "bf16", "bf16")
    columns = ("s=1", "s=5", "s=10", "s=1 bf16", "s=5 bf16", "s=10 bf16")
    print(f"{'':33s}{'':>9s}{'':>8s}{'GiB':>7s}{'GiB':>7s}" + "".join(f"{h:>9s}" for h in head))
    print(
        f"{'network':33s}{'M param':>9s}{'GFLOP':>8s}{'f32':>7s}{'bf16':>7s}"
        + "".join(f"{c.split()[0] + ' ms':>9s}" for c in columns)
    )
    rows = []
    for name, channels, size, make, _ in cases(given.quick):
        row = measure(name, channels, size, make, device, given.rounds)
        gc.collect()
        rows.append(row)
        print(
            f"{name:33s}{row['M']:9.1f}{row['GFLOP']:8.1f}{row['GiB']:7.2f}{row['GiB bf16']:7.2f}",
            end="",
        )
        print("".join(f"{ms(row[c]):>9s}" for c in columns), flush=True)

    none = "" if bf16 else " (no bf16 instructions here: no bound)"
    print(
        "\nour sampler, s = 10, over ten bare calls; weights in bf16, autocast(bf16) over "
        f"float32 at s = 1{none}"
    )
    for row in rows:
        cast, auto = ratio(row["s=1 cast"], row["s=1"]), ratio(row["s=1 bf16"], row["s=1"])
        over = ratio(row["s=10"], row["ten calls"])
        texts = (
            [f"{over:.3g}", f"{cast:.3g}"]
            if given.quick
            else [verdict(over, SAMPLER_BOUND), verdict(cast, BF16_BOUND)]
        )
        print(
            f"{row['name']:33s} sampler {texts[0]}   cast "
            f"{texts[1] if bf16 else f'{cast:.3g}'}, error {row['cast error']:.2%}",
            end="",
        )
        print(f"   autocast {auto:.3g}, error {row['bf16 error']:.2%}")

    print("\nfolding the time into biases, for s = 1")
    for row in rows:
        if "folded M" in row:
            print(
                f"{row['name']:33s} {row['M'] - row['folded M']:.1f} M parameters fewer, "
                "output differs by at most ",
                end="",
            )
            print(
                f"{verdict(row['folding error'], FOLD_TOLERANCE)}, its largest entry is "
                f"{row['scale']:.2g}"
            )

    print(
        "\none call beside diffusers' UNet2DModel: the same widths, blocks, attention and 3 x "
        "C input, one head, float32"
    )
    for name, channels, size, ours, theirs in cases(given.quick):
        if theirs is not None:
            row = beside(ours, theirs, channels, size, device, given.rounds)
            print(
                f"{name:33s} ours {ms(row['ours'])} ms, diffusers {ms(row['diffusers'])} ms", end=""
            )
            print(
                f" ({row['M']:.0f} M, {row['GFLOP']:.1f} GFLOP), ratio "
                f"{ratio(row['ours'], row['diffusers']):.3f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
