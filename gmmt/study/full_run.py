"""The road from data on a disk to the paper's tables: what each row costs, and what it gave beside
what is printed.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gmmt.build import make_generator, make_tracker
from gmmt.config import Config
from gmmt.data import manifest
from gmmt.draws import Draws
from gmmt.files import resource
from gmmt.results import TABLE_COLUMNS, published, write_table
from gmmt.training import Stage

SPEEDS = "speeds.csv"
FRAMES_A_SECOND = 18
"""That the paper tracks, on an RTX 3090 Ti (Self-Analysis)."""
PAIRS_A_SECOND = 200
"""That a core reads and cuts, of 640 x 480 JPEGs (python -m benchmarks loader: 207)."""
COLUMNS = ("row", "seed", "method", *TABLE_COLUMNS, "printed", "printed_in")
NAMES = {"lasher": "LasHeR", "rgbt234": "RGBT234", "gtot": "GTOT"}
"""Benchmarks as the paper's tables call them."""
ALSO = {"TBSI+GMMT(U)": "TBSI+GMMT", "ViPT*+GMMT(V)": "ViPT*+GMMT"}
"""What Table 1 calls a method, by its numbers on LasHeR, which are those of the supplement's
Table 6."""


@dataclass(frozen=True)
class Line:
    """What a stage of a row costs."""

    row: str
    stage: str
    steps: int
    batch: int
    teraflop: float  # of a step, forward and backward
    gpu_hours: float
    loader_hours: float
    gigabytes: float  # of weights, gradients and optimiser alone: activations come on top

    @property
    def hours(self) -> float:
        """What takes longer: the GPU's work, or reading and cutting the pairs meanwhile."""
        return max(self.gpu_hours, self.loader_hours)


def stages(config: Config) -> list[Line]:
    """Returns what each stage of a row costs on the GPU of speeds.csv:

    GPU hours = steps * FLOP of a step / (FLOP of a measured step * measured steps a second) / 3600
    loader hours = steps * pairs of a step / (PAIRS_A_SECOND * worker processes) / 3600
    """
    lines, flop_per_second = [], measured()
    for name in config.stages:
        plan = config.plans[name]
        flop, gigabytes = work(config, name)
        gpu = plan.steps * flop / flop_per_second / 3600
        loader = plan.steps * plan.batch / (PAIRS_A_SECOND * max(1, config.data.workers)) / 3600
        costs = flop / 1e12, gpu, loader, gigabytes
        lines.append(Line(config.names[name], name, plan.steps, plan.batch, *costs))
    return lines


def tracking_hours(benchmark: str) -> float:
    """Returns how long a row needs for the test videos of a benchmark, at FRAMES_A_SECOND."""
    splits = manifest.load(benchmark)["layout"]["splits"]
    return sum(splits["test"]["rows"].values()) / FRAMES_A_SECOND / 3600


@cache
def measured() -> float:
    """Returns the FLOP a second of that stage 2, of those measured, at which they were fewest.

    Two were measured in bf16, for the third it was not told. In fp32 a GPU does less.
    """
    import pandas as pd

    from gmmt.config_file import load
    from gmmt.files import config_dir

    rows = pd.read_csv(resource(SPEEDS))
    found = []
    for _, line in rows.iterrows():
        network, n = line["network"].split(" n=")
        config = load(config_dir() / "paper" / f"tbsi_gmmt_{network.lower()}.yaml", "cpu")
        generator = config.generator
        args = {**generator.network.args, "n_blocks": int(n)}
        network = replace(generator.network, args=args)
        config = replace(config, generator=replace(generator, network=network))
        found.append(work(config, "2")[0] * line["steps_per_second"])
    return min(found)


def work(config: Config, name: str) -> tuple[float, float]:
    """Returns (FLOP of a step, GB of weights, gradients and optimiser) of a stage; nothing is
    computed. Two FLOP are a multiplication and an addition.
    """
    twice = config.generator is not None and config.generator.variant == "CGAN" and name == "2"
    if twice:  # D is small, and what stands in for the GPU here knows no autocast
        raw = replace(config.generator, variant="RAW", discriminator=None)
        config = replace(config, generator=raw)
    with torch.device("meta"):
        tracker = make_tracker(config)
        if name == "2":
            tracker.fusion = make_generator(config, tracker.channels)
        stage = Stage(tracker, name, config.plans[name])
        stage.eval()
        sides = tracker.crops.template, tracker.crops.search
        channels = sum(tracker.modalities.values())
        crops = [torch.zeros(1, channels, side, side) for side in sides]
        boxes = torch.zeros(1, 4)
        with FlopCounterMode(display=False) as counter:
            stage(*crops, boxes, Draws(0))["loss"].backward()
            if twice:  # D's turn: the features and U once more, forwards
                with torch.no_grad():
                    stage(*crops, boxes, Draws(0))
    learnable = sum(p.numel() for p in tracker.parameters() if p.requires_grad)
    every = sum(p.numel() for p in tracker.parameters())
    states = 2 if config.plans[name].optimizer == "adamw" else 1
    gigabytes = 4 * (every + (1 + states) * learnable) / 1e9
    return counter.get_total_flops() * config.plans[name].batch, gigabytes


def beside_the_paper(scores: list[Path]):
    """Returns one table (COLUMNS) of files that `gmmt score --out` wrote, named ROW-BENCHMARK.csv
    in seedN/scores: each score beside the number that the paper prints, if it does.
    """
    import pandas as pd

    from gmmt.config_file import load
    from gmmt.files import config_dir

    printed, rows = published(), []
    for path in scores:
        found, seed = pd.read_csv(path), path.parents[1].name.removeprefix("seed")
        for _, line in found[found["subset"] == "ALL"].iterrows():
            row = line["tracker"]
            method = load(config_dir() / "paper" / f"{row}.yaml", "cpu").meaning
            there = printed[
                (printed["benchmark"] == NAMES.get(line["benchmark"], ""))
                & printed["method"].isin([method, ALSO.get(method, method)])
                & (printed["metric"] == line["metric"])
                & (printed["subset"] == "ALL")
                & (printed["setting"] == "")
            ]
            value, source = "", ""
            if len(there):
                value, source = there["value"].iloc[0], ", ".join(there["source"])
            here = {"row": row, "seed": seed, "method": method, **line}
            rows.append({**here, "printed": value, "printed_in": source})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(scores: list[Path], out: Path) -> None:
    """Writes that table as a CSV file."""
    write_table(beside_the_paper(scores).to_dict("records"), out, COLUMNS)
