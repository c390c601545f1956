"""Two-stage training (supplement, Sec. C and Table 2): per-modality trackers, then fusion and head,
then GMMT and a new head.

| stage | learnable: Siamese | ViPT | TBSI |
|---|---|---|---|
| 1.1 rgb, 1.1 tir | backbone, neck, head of one modality | - (OSTrack: all, on RGB) | - |
| 1.2 | fusion block, its head | prompt layers | all (the paper takes the official weights) |
| 2 | GMMT (U, and D of a CGAN), a new head | the same | the same |

All else is frozen and stays in evaluation mode, its batch norms too. Loss = Loss_track + lam *
Loss_gen, Eq. (5). Whatever a step draws depends on (seed, stage, step) alone: a run that was killed
goes on from its last checkpoint to the very same weights, and so does one on several processes
(Accelerate), each of which takes its share of the same batch.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from gmmt.data.pairs import Pairs
from gmmt.draws import Draws
from gmmt.errors import SettingError
from gmmt.files import atomic_write
from gmmt.fusion import CGANFusion
from gmmt.trackers.base import Tracker

STAGES = ("1.1 rgb", "1.1 tir", "1.2", "2")


@dataclass(frozen=True)
class Plan:
    """How one stage is trained."""

    steps: int
    batch: int = 32  # pairs in a step, over all processes
    optimizer: str = "adamw"  # needs fewer steps than the paper's "sgd" (momentum 0.9)
    rate: float = 2e-3  # the highest learning rate
    warmup: float = 0.1  # share of the steps before it, which rise linearly
    first: float = (
        0.2  # the first rate, and the last, to which it falls geometrically: shares of the highest
    )
    last: float = 0.01
    weight_decay: float = 1e-4
    clip: float = 10.0  # the largest norm of a gradient
    lam: float = 1.0  # lambda of Eq. (5)

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step: linear warm-up from `first`, geometric decay to
        `last`, both as shares of `rate`.
        """
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return self.rate * (self.first + (1 - self.first) * step / ramp)
        return self.rate * self.last ** ((step - ramp) / max(1, self.steps - ramp - 1))


PAPER = {
    "1.1": Plan(steps=20, batch=8, optimizer="sgd", rate=0.005, warmup=0.25, first=0.2, last=0.01),
    "1.2": Plan(steps=20, batch=8, optimizer="sgd", rate=0.005, warmup=0.25, first=0.2, last=0.01),
    "2": Plan(
        steps=100, batch=8, optimizer="sgd", rate=0.005, warmup=0.2, first=0.2, last=0.01, lam=5.0
    ),
    "1.2 ViPT": Plan(
        steps=100, batch=32, optimizer="adamw", rate=0.0004, warmup=0.0, first=1.0, last=1.0
    ),  # how it falls is not told
    "2 ViPT, TBSI": Plan(
        steps=100, batch=32, optimizer="sgd", rate=0.005, warmup=0.2, first=0.2, last=0.01, lam=5.0
    ),
}
"""Supplement, Table 2 (Siamese where no other is named), with `steps` in EPOCHS: multiply by the
data set's steps an epoch.
"""


class Stage(nn.Module):
    """A tracker in one stage: what learns, what is frozen, and the loss."""

    def __init__(self, tracker: Tracker, stage: str, lam: float = 1.0):
        """Freezes all but what the stage trains."""
        super().__init__()
        if stage not in (stages := tracker.stages()):
            raise SettingError(
                f"unknown stage {stage!r}: {type(tracker).__name__} has {', '.join(stages)}"
            )
        self.tracker, self.stage, self.lam, self.parts = tracker, stage, lam, stages[stage]
        self.mode = {"1.2": "base", "2": "stage2"}.get(stage, stage[4:])
        learnable = {p for part in self.parts for p in part.parameters()}
        for p in tracker.parameters():
            p.requires_grad_(p in learnable)
        self.train()

    def train(self, mode: bool = True) -> "Stage":
        """Sets the learnable parts to training mode; all else stays in evaluation mode."""
        super().train(False)
        self.training = mode
        for part in self.parts:
            part.train(mode)
        return self

    def groups(self) -> list[list[Tensor]]:
        """Returns the parameters of each optimiser: those of the tracker and of U, and those of D
        if there is one.
        """
        own = set(self.tracker.fusion.discriminator.parameters()) if self.has_d else set()
        every = [p for p in self.tracker.parameters() if p.requires_grad]
        return [[p for p in every if p not in own]] + (
            [[p for p in every if p in own]] if own else []
        )

    @property
    def has_d(self) -> bool:
        """Whether a discriminator is trained, too."""
        return self.stage == "2" and isinstance(self.tracker.fusion, CGANFusion)

    def forward(
        self, template: Tensor, search: Tensor, boxes: Tensor, draws: Draws, part: str = "all"
    ) -> dict[str, Tensor]:
        """Returns the terms of the loss and their weighted sum "loss"; `part="D"` is the
        discriminator's turn.
        """
        t, gen = self.tracker, {}
        z = t.encode_template(template, self.mode)
        if self.stage == "2" and t.fusion is not None:
            *features, fused = t.streams(z, search)
            if part == "D":
                loss = t.fusion.discriminator_loss(fused, *features, generator=draws)
                return {"D": loss, "loss": loss}
            x, gen = t.fusion.loss(fused, *features, generator=draws)
        else:
            x = t.encode(z, search, self.mode)
        terms = t.loss_of(*t.head[self.mode](z, x), boxes, t.stride)
        total = sum(terms.values())
        if self.lam:
            total = total + self.lam * sum(gen.values())
        return terms | gen | {"loss": total}


def fit(
    stage: Stage,
    plan: Plan,
    pairs: Pairs,
    checkpoint: Path,
    *,
    seed: int,
    config: Mapping,
    save_every: int = 100,
    progress: bool = False,
    accelerator: Accelerator | None = None,
) -> dict[str, list[float]]:
    """Trains a stage to its plan's end, from its checkpoint if there is one, and returns the curve
    of each term of the loss.

    `checkpoint` is where the state is kept; after the last step it holds all that the stage
    trained. `config` is what the run depends on: a checkpoint of another configuration is refused
    (SettingError). FloatingPointError if the loss is not finite.
    """
    unused = DistributedDataParallelKwargs(
        find_unused_parameters=stage.has_d
    )  # D gets no gradient in G's turn, nor U in D's
    accelerator = accelerator or Accelerator(
        cpu=not torch.cuda.is_available(), kwargs_handlers=[unused]
    )
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    stage.to(device, memory_format=torch.channels_last)  # a sixth faster on a CPU, more on a GPU
    kind, options = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adamw": (torch.optim.AdamW, {})}[
        plan.optimizer
    ]
    optimizers = [
        kind(group, plan.rate, weight_decay=plan.weight_decay, **options)
        for group in stage.groups()
    ]
    done, history = (
        restore(checkpoint, stage, optimizers, config) if checkpoint.is_file() else (0, {})
    )
    model = accelerator.prepare(stage) if world > 1 else stage
    shown = {"disable": not progress or rank > 0, "mininterval": 5}
    for k in tqdm(
        range(done, plan.steps), f"stage {stage.stage}", plan.steps, initial=done, **shown
    ):
        batch = [
            v.to(device, non_blocking=True)
            for v in pairs.batch(plan.batch, (seed, STAGES.index(stage.stage), k), rank, world)
        ]
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = plan.rate_at(k)
        record = {}
        for i, part in reversed(list(enumerate(("all", "D")[: len(optimizers)]))):
            with accelerator.autocast():
                terms = model(
                    *batch, Draws(hash_of([seed, stage.stage, k, part]), rank, world), part
                )
            optimizers[i].zero_grad()
            accelerator.backward(terms["loss"])
            torch.nn.utils.clip_grad_norm_(stage.groups()[i], plan.clip)
            optimizers[i].step()
            record |= {
                name: value.detach()
                for name, value in terms.items()
                if name not in record or part == "all"
            }
        values = torch.stack([v.float() for v in record.values()])
        values = (accelerator.reduce(values, "mean") if world > 1 else values).tolist()
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(
                f"stage {stage.stage}, step {k}: the loss is "
                f"{dict(zip(record, values, strict=True))}"
            )
        for name, value in zip(record, values, strict=True):
            history.setdefault(name, []).append(value)
        if (k + 1) % save_every == 0 or k + 1 == plan.steps:
            if rank == 0:
                store(
                    checkpoint,
                    stage,
                    optimizers if k + 1 < plan.steps else [],
                    k + 1,
                    history,
                    config,
                )
            accelerator.wait_for_everyone()
    return history


def trained(stage: Stage) -> dict[str, Tensor]:
    """Returns the part of the tracker's state that the stage trains, buffers included."""
    of = {id(v): name for name, v in stage.tracker.state_dict(keep_vars=True).items()}
    own = [v for part in stage.parts for v in part.state_dict(keep_vars=True).values()]
    return {of[id(v)]: v.detach() for v in own}


def store(
    path: Path, stage: Stage, optimizers: list, done: int, history: Mapping, config: Mapping
) -> None:
    """Writes a checkpoint in one step: one file with weights, the optimisers' state, and the steps
    done.
    """
    tensors = {f"weights/{name}": v for name, v in trained(stage).items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{i}/{j}/{name}": torch.as_tensor(v)
                for name, v in state.items()
                if v is not None
            }
    tensors = {
        name: v.cpu().clone(memory_format=torch.contiguous_format) for name, v in tensors.items()
    }
    with atomic_write(path, "wb") as file:
        file.write(
            save(
                tensors,
                {
                    "done": str(done),
                    "config": json.dumps(config, sort_keys=True),
                    "history": json.dumps(history),
                },
            )
        )


def restore(
    path: Path, stage: Stage, optimizers: list, config: Mapping
) -> tuple[int, dict[str, list[float]]]:
    """Returns (steps done, history) after taking weights and optimisers' state from a
    checkpoint.
    """
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        if json.loads(meta["config"]) != json.loads(json.dumps(config)):
            raise SettingError(
                f"{path}: trained with another configuration ({meta['config'][:200]} ...); "
                "remove it, or name another file"
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    own, given = (
        trained(stage),
        {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")},
    )
    if set(own) != set(given):
        raise SettingError(
            f"{path}: holds other weights than this stage trains: "
            f"{sorted(set(own) ^ set(given))[:5]} ..."
        )
    stage.tracker.load_state_dict(given, strict=False)
    for i, optimizer in enumerate(optimizers):
        state: dict = {}
        for key, v in tensors.items():
            if key.startswith(f"optimizer/{i}/"):
                j, name = key.split("/")[2:]
                state.setdefault(int(j), {})[name] = v
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )
    return int(meta["done"]), json.loads(meta["history"])


def load_or_train(
    name: str,
    stage: Stage,
    plan: Plan,
    pairs: Callable[[], Pairs],
    folder: Path,
    *,
    seed: int,
    config: Mapping,
    **options,
) -> tuple[str, dict[str, list[float]]]:
    """Returns (key, history): the stage's trained weights are loaded if this configuration was
    trained before, else trained and kept.

    The file is NAME-KEY.safetensors; the key is a hash of the configuration, which must hold all
    that the result depends on. Two runs that want the same weights wait for one another; the
    processes of one run (torchrun) work together.
    """
    config = {"name": name, "stage": stage.stage, "plan": asdict(plan), "seed": seed, **config}
    key = f"{hash_of(config):016x}"[:12]
    path = folder / f"{name}-{key}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with contextlib.nullcontext() if together else FileLock(f"{path}.lock"):
        done, history = restore(path, stage, [], config) if path.is_file() else (0, {})
        if done < plan.steps:
            history = fit(stage, plan, pairs(), path, seed=seed, config=config, **options)
    stage.eval()
    return key, history


def hash_of(content) -> int:
    """Returns a 62-bit hash of anything that JSON can hold, the same on every machine."""
    return (
        int.from_bytes(
            hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:8], "big"
        )
        >> 2
    )
