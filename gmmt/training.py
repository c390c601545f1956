"""One way to train a stage of a tracker, whatever the tracker and the data.

The paper trains in stages (supplement, Sec. C and Table 2): per-modality trackers, then fusion and
head, then GMMT and a new head.

| stage | learnable: Siamese | ViPT | TBSI |
|---|---|---|---|
| 1.1 rgb, 1.1 tir | backbone, neck, head of one modality | - (OSTrack: all, on RGB) | - |
| 1.2 | fusion block, its head | prompt layers | all (the paper takes the official weights) |
| 2 | GMMT (U, and D of a CGAN), a new head | the same | the same |

All else is frozen and stays in evaluation mode, its batch norms too. Whatever a step draws depends
on (seed, stage, step) alone: a run that was killed goes on from its last checkpoint to the very
same weights, and so does one on several processes, each of which takes its share of the same batch.
(But SiamBAN's released loss is a mean over the points of a process's share, as released.)
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from tqdm import tqdm

from gmmt import checkpoint, compute
from gmmt.checkpoint import Curve
from gmmt.config import Plan
from gmmt.data.pairs import Pairs
from gmmt.draws import Draws
from gmmt.errors import LossError, SettingError
from gmmt.provenance import hash_of
from gmmt.trackers.base import Tracker
from gmmt.trackers.vit import keep_rate

SHARE_OF_SAVING = 20  # a checkpoint is not written more often than in 20 times as long as it takes
STAGES = ("1.1 rgb", "1.1 tir", "1.2", "2")


class Stage(nn.Module):
    """A tracker in one stage of its training: what learns, what is frozen, and the loss."""

    def __init__(self, tracker: Tracker, name: str, plan: Plan):
        """Freezes all but what the stage trains. SettingError: the tracker has no such stage."""
        super().__init__()
        stages = tracker.stages()
        if name not in stages:
            raise SettingError(
                f"unknown stage {name!r}: {type(tracker).__name__} has {', '.join(stages)}"
            )
        self.tracker, self.name, self.plan = tracker, name, plan
        self.mode, self.parts = stages[name].mode, stages[name].learns
        learnable = {p for part in self.parts for p in part.parameters()}
        for p in tracker.parameters():
            p.requires_grad_(p in learnable)
        self.train()

    @property
    def generates(self) -> bool:
        """Whether GMMT takes part."""
        return self.name == "2" and self.tracker.fusion is not None

    @property
    def turns(self) -> tuple[str, ...]:
        """Who learns, one after the other, within one step: D before all else if there is a D."""
        return self.tracker.fusion.turns if self.generates else ("all",)

    def train(self, mode: bool = True) -> "Stage":
        """Sets the learnable parts to training mode; all else stays in evaluation mode."""
        super().train(False)
        self.training = mode
        for part in self.parts:
            part.train(mode)
        return self

    def parameters_of(self, turn: str) -> list[Tensor]:
        """Returns what learns in a turn, in the tracker's own order."""
        every = [p for p in self.tracker.parameters() if p.requires_grad]
        if not self.generates:
            return every
        others = [t for t in self.turns if t != "all"]
        theirs = {p for t in others for p in self.tracker.fusion.parameters_of(t)}
        if turn == "all":
            return [p for p in every if p not in theirs]
        own = set(self.tracker.fusion.parameters_of(turn))
        return [p for p in every if p in own]

    def groups(self, turn: str) -> list[dict]:
        """Returns what learns in a turn as groups of one share of the rate, with the epoch in which
        each begins to learn.
        """
        grouped: dict[tuple, list[Tensor]] = {}
        names = {p: name for name, p in self.tracker.named_parameters()}
        for p in self.parameters_of(turn):
            share = _of(self.plan.rate_share, names[p], 1.0)
            begins = _of(self.plan.frozen_until, names[p], 0)
            grouped.setdefault((share, begins), []).append(p)
        return [
            {"params": parameters, "share": share, "begins": begins}
            for (share, begins), parameters in grouped.items()
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Sets what depends on the epoch (from 0): what begins to learn later is in evaluation mode
        till then, and so many search tokens stay.
        """
        for name, module in self.tracker.named_modules():
            if epoch < _of(self.plan.frozen_until, name, 0):
                module.train(False)
            elif name in self.plan.frozen_until:
                module.train(True)
        if self.plan.eliminate is not None:
            self.tracker.backbone.keep_rate = keep_rate(epoch + 1, *self.plan.eliminate)

    def forward(
        self, template: Tensor, search: Tensor, boxes: Tensor, draws: Draws, turn: str = "all"
    ) -> dict[str, Tensor]:
        """Returns the terms of a turn's loss, and what they add up to: "loss". Eq. (5).

        Crops [B, C, H, W] in 0..255; boxes [B, 4] (x1, y1, x2, y2) around the search patch's
        middle.
        """
        tracker = self.tracker
        z = tracker.encode_template(template, self.mode)
        # 1. The search features for the head: the tracker's own, or fused* with its loss, Eq. (6).
        generative: dict[str, Tensor] = {}
        if self.generates:
            *features, fused = tracker.streams(z, search)
            if turn == "D":
                loss = tracker.fusion.discriminator_loss(fused, *features, generator=draws)
                return {"D": loss, "loss": loss}
            x, generative = tracker.fusion.loss(fused, *features, generator=draws)
        else:
            x = tracker.encode(z, search, self.mode)
        # 2. The tracking loss.
        answer = tracker.head[self.mode](z, x)
        if self.plan.loss == "released":
            terms = tracker.released_loss(answer, boxes, draws)
        else:
            terms = tracker.loss_of(*answer, boxes, tracker.stride)
        # 3. Loss = Loss_track + lam * Loss_gen, Eq. (5).
        total = sum(terms.values())
        if self.plan.lam and generative:
            total = total + self.plan.lam * sum(generative.values())
        return {**terms, **generative, "loss": total}

    def trained(self) -> dict[str, Tensor]:
        """Returns the part of the tracker's state that the stage trains, buffers included."""
        state = self.tracker.state_dict(keep_vars=True)
        name_of = {id(value): name for name, value in state.items()}
        own = [v for part in self.parts for v in part.state_dict(keep_vars=True).values()]
        return {name_of[id(value)]: value.detach() for value in own}

    def take(self, weights: Mapping[str, Tensor], source: Path) -> None:
        """Takes what the stage trains from a checkpoint. SettingError: it holds other weights."""
        differing = set(self.trained()) ^ set(weights)
        if differing:
            raise SettingError(
                f"{source}: holds other weights than this stage trains: "
                f"{', '.join(sorted(differing)[:5])} ..."
            )
        self.tracker.load_state_dict(weights, strict=False)


def fit(
    stage: Stage,
    pairs: Pairs,
    path: Path,
    *,
    seed: int,
    config: Mapping,
    precision: str = "fp32",
    parts: int = 1,
    check_every: int = 50,
    save_seconds: float = 60,
    progress: bool = False,
    accelerator: Accelerator | None = None,
) -> Curve:
    """Trains a stage to its plan's end, from its checkpoint at `path` if there is one, and returns
    the curve of each term of the loss. Afterwards the tracker is on its device, in torch's layout.

    A process computes its share of a batch in so many `parts`, of which gradients are added up; a
    batch norm sees one part. `config` is what the run depends on: a checkpoint of another
    configuration is refused (SettingError). Every `check_every` steps the loss is looked at
    (LossError if it is not finite) and, if `save_seconds` have passed, the checkpoint is
    written (0: each time).
    """
    plan = stage.plan
    accelerator = accelerator or compute.accelerator(len(stage.turns) > 1)
    device, rank = compute.device(), accelerator.process_index
    world, is_main = accelerator.num_processes, accelerator.is_main_process
    compute.layout(stage, device, fast=True)  # a sixth faster on a CPU, more on a GPU
    optimizers = {turn: make_optimizer(plan, stage.groups(turn)) for turn in stage.turns}
    scaler = compute.scaler(device, precision)
    done = resume(stage, list(optimizers.values()), path, config)
    if is_main:
        checkpoint.cut_curve(path, done)
    model = accelerator.prepare(stage) if world > 1 else stage

    unseen: list[dict[str, Tensor]] = []
    saved, saving, epoch = time.monotonic(), 0.0, -1
    bar = {"disable": not progress or not is_main, "mininterval": 5}
    # 1. A batch, the same for any number of processes.
    key = (seed, STAGES.index(stage.name))
    batches = pairs.batches(key, done, plan.steps, plan.batch, rank, world)
    batches = tqdm(batches, f"stage {stage.name}", plan.steps, initial=done, **bar)
    for k, batch in enumerate(batches, start=done):
        if plan.epoch_of(k) != epoch:
            epoch = plan.epoch_of(k)
            stage.begin_epoch(epoch)
        record: dict[str, Tensor] = {}
        for turn, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = plan.rate_at(k) * group["share"]
            # 2. The gradient of this turn's loss, with noise and time steps that depend on the step
            #    alone, part by part.
            optimizer.zero_grad()
            means: dict[str, Tensor] = {}
            for i, part in enumerate(_cut(batch, parts)):
                draws = Draws(hash_of([seed, stage.name, k, turn]), rank * parts + i, world * parts)
                waits = world > 1 and i + 1 < parts
                with model.no_sync() if waits else contextlib.nullcontext():
                    with compute.autocast(device, precision):
                        terms = model(*part, draws, turn)
                    scaler.scale(terms["loss"] / parts).backward()
                for name, value in terms.items():
                    means[name] = means.get(name, 0.0) + value.detach() / parts
            record.update(means)
            # 3. It is cut to a length of `clip`; a step. What does not learn yet has no part in it.
            scaler.unscale_(optimizer)
            for group in optimizer.param_groups:
                if epoch < group["begins"]:
                    for parameter in group["params"]:
                        parameter.grad = None
            nn.utils.clip_grad_norm_(stage.parameters_of(turn), plan.clip)
            scaler.step(optimizer)
        scaler.update()
        unseen.append(record)
        # 4. Now and then a look at the loss, which makes a GPU wait, and a checkpoint.
        last = k + 1 == plan.steps
        if last or (k + 1) % check_every == 0:
            records = look_at(unseen, k + 1, stage.name, accelerator)
            unseen = []
            if is_main:
                checkpoint.add_to_curve(path, records)
                log(accelerator, stage.name, records, k + 1, optimizers)
                pause = save_seconds and max(save_seconds, SHARE_OF_SAVING * saving)
                if last or time.monotonic() - saved >= pause:
                    begun = time.monotonic()
                    kept = [] if last else list(optimizers.values())
                    checkpoint.save(path, stage.trained(), kept, k + 1, config)
                    saved = time.monotonic()
                    saving = saved - begun
    accelerator.wait_for_everyone()
    compute.layout(stage, device, fast=False)
    if plan.eliminate is not None:
        stage.tracker.backbone.keep_rate = None
    return checkpoint.read_curve(path, plan.steps)


def _of(values: Mapping, name: str, other):
    """Returns the value of the first key that a name begins with, else `other`."""
    return next((value for key, value in values.items() if name.startswith(key)), other)


def _cut(batch: Sequence[Tensor], parts: int) -> Iterator[Sequence[Tensor]]:
    """Yields a batch in equal parts; SettingError: it has another number of items."""
    n = len(batch[0])
    if n % parts:
        raise SettingError(f"{n} items cannot be computed in {parts} parts: choose a divisor")
    for i in range(parts):
        yield [values[i * n // parts : (i + 1) * n // parts] for values in batch]


def log(
    accelerator: Accelerator,
    stage: str,
    records: list[dict[str, float]],
    step: int,
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Sends the mean of the last steps' losses, and the rates, to what Accelerate logs to."""
    means = {name: sum(r[name] for r in records) / len(records) for name in records[0]}
    for turn, optimizer in optimizers.items():
        means[f"rate/{turn}"] = max(group["lr"] for group in optimizer.param_groups)
    accelerator.log({f"{stage}/{name}": value for name, value in means.items()}, step=step)


def make_optimizer(plan: Plan, parameters: list[Tensor] | list[dict]) -> Optimizer:
    """Returns the plan's optimiser for parameters or groups of them; its rate is set in every
    step.
    """
    if plan.optimizer == "sgd":
        return SGD(parameters, plan.rate, momentum=0.9, weight_decay=plan.weight_decay)
    if plan.optimizer == "adamw":
        return AdamW(parameters, plan.rate, weight_decay=plan.weight_decay)
    raise SettingError(f"there is no optimizer {plan.optimizer!r}: expected sgd or adamw")


def resume(stage: Stage, optimizers: list[Optimizer], path: Path, config: Mapping) -> int:
    """Returns the steps done, after taking weights and optimisers' state from a checkpoint."""
    if not path.is_file():
        return 0
    done, weights, states = checkpoint.load(path, config)
    stage.take(weights, path)
    for optimizer, state in zip(optimizers, states, strict=False):
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return done


def look_at(
    records: list[dict[str, Tensor]], step: int, stage: str, accelerator: Accelerator
) -> list[dict[str, float]]:
    """Returns the terms of the last steps' losses as numbers, means over all processes; raises
    LossError if one is not finite.
    """
    values = torch.stack([torch.stack([v.float() for v in r.values()]) for r in records])
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, "mean")
    found = [dict(zip(records[0], row, strict=True)) for row in values.tolist()]
    for i, record in enumerate(found):
        if not all(map(math.isfinite, record.values())):
            k = step - len(found) + i
            raise LossError(
                f"stage {stage}, step {k}: the loss is {record}; expected finite numbers. The "
                f"checkpoint is of an earlier step. A lower rate or norm of gradients may help: "
                f"--set plans/{stage}/clip=0.1"
            )
    return found
