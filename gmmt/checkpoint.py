"""Checkpoints: what a stage has trained so far, kept so that a stopped run goes on as if it had not
stopped.

A checkpoint is one safetensors file with weights, the optimisers' state and the number of steps
done; the curve of the loss stands beside it, NAME.curve.jsonl, a line a step, to which lines are
only added.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from gmmt.errors import SettingError

Curve = dict[str, list[float]]  # the value of each term of the loss, step by step


def curve_file(path: Path) -> Path:
    """Returns where the curve of a checkpoint stands."""
    return path.with_suffix(".curve.jsonl")


def save(
    path: Path,
    weights: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    done: int,
    config: Mapping,
) -> None:
    """Writes a checkpoint in one step: a run that is killed leaves the old one or the new one."""
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    tensors[f"optimizer/{i}/{j}/{name}"] = torch.as_tensor(value)
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # One entry: of several the order in the file would be another one each time.
    meta = {"run": json.dumps({"done": done, "config": config}, sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary, meta)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(path: Path) -> None:
    """Removes what killed runs left of half-written checkpoints; to be called by the one process
    that may write `path`.
    """
    for left_over in path.parent.glob(f".{path.name}.*"):
        left_over.unlink(missing_ok=True)


def load(path: Path, config: Mapping) -> tuple[int, dict[str, Tensor], list[dict]]:
    """Returns (steps done, weights by name, state of each optimiser) of a checkpoint.

    SettingError: it is damaged, or of another configuration.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            run = json.loads(meta["run"])
            done, theirs = int(run["done"]), run["config"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise SettingError(
            f"{path}: expected a checkpoint of this project, but it is damaged or another file "
            f"({error!s:.200}); remove it and train again"
        ) from None
    if theirs != json.loads(json.dumps(config)):
        raise SettingError(
            f"{path}: trained with another configuration ({json.dumps(theirs)[:200]} ...); "
            f"remove it, or name another file"
        )
    weights, states = {}, []
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "weights":
            weights[rest] = value
        else:
            i, j, name = rest.split("/")
            while len(states) <= int(i):
                states.append({})
            states[int(i)].setdefault(int(j), {})[name] = value
    return done, weights, states


# --- the curve ------------------------------------------------------------------------------------


def add_to_curve(path: Path, records: Sequence[Mapping[str, float]]) -> None:
    """Adds lines to the curve of a checkpoint."""
    curve_file(path).parent.mkdir(parents=True, exist_ok=True)
    with open(curve_file(path), "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())


def read_curve(path: Path, done: int) -> Curve:
    """Returns the first `done` steps of the curve of a checkpoint.

    SettingError: it has fewer, or is damaged.
    """
    curve: Curve = {}
    file = curve_file(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()[:done] if done else []
        for line in lines:
            for name, value in json.loads(line).items():
                curve.setdefault(name, []).append(value)
    except (OSError, ValueError) as error:
        raise SettingError(f"{file}: {error}; remove {path} and train again") from None
    if len(lines) < done:
        raise SettingError(
            f"{file}: {len(lines)} lines, expected {done}, one for each step that {path.name} "
            f"has done; remove both and train again"
        )
    return curve


def cut_curve(path: Path, done: int) -> None:
    """Drops the lines of the curve beyond `done`: a killed run may have written more than it
    saved.
    """
    file = curve_file(path)
    if not file.is_file():
        return
    with open(file, "rb+") as handle:
        for _ in range(done):
            handle.readline()
        handle.truncate()
