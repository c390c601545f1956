"""Checkpoints: what a stage has trained so far, kept so that a stopped run goes on as if it had not
stopped.

A checkpoint is one safetensors file with weights, the optimisers' state and the number of steps
done; the curve of the loss stands beside it, NAME.curve.jsonl, a line a step, to which lines are
only added. Both are known by hashes in the checkpoint: what a disk or a transfer has damaged is
refused, and never taken for weights.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim import Optimizer

from gmmt import files
from gmmt.errors import SettingError

TOLD = "told"  # the field of a configuration that is kept and not compared
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
    run = {"done": done, "config": _plain(config), "curve": _hash(_curve_lines(path, done))}
    run["hash"] = _content_hash(run, tensors)
    # One entry: of several the order in the file would be another one each time.
    meta = {"run": json.dumps(run, sort_keys=True)}
    with files.atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(tensors, meta))


def sweep(path: Path) -> None:
    """Removes what killed runs left of half-written checkpoints; to be called by the one process
    that may write `path`.
    """
    for left_over in path.parent.glob(f".{path.name}.*"):
        left_over.unlink(missing_ok=True)


def steps_done(path: Path) -> int:
    """Returns how many steps a checkpoint says it has done, 0 if there is none; SettingError: it is
    damaged.
    """
    if not os.path.isfile(path):
        return 0
    with _opened(path) as file:
        return int(json.loads(file.metadata()["run"])["done"])


def read_config(path: Path) -> dict:
    """Returns the configuration of a checkpoint; SettingError: it is damaged."""
    with _opened(path) as file:
        return json.loads(file.metadata()["run"])["config"]


def load(path: Path, config: Mapping | None) -> tuple[int, dict[str, Tensor], list[dict]]:
    """Returns (steps done, weights by name, state of each optimiser) of a checkpoint.

    SettingError: it or its curve is damaged, or it is of another configuration (None: of any).
    """
    with _opened(path) as file:
        run = json.loads(file.metadata()["run"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if run.pop("hash") != _content_hash(run, tensors):
            raise ValueError("it does not hold what was written")
    done = run["done"]
    if config is not None and _compared(run["config"]) != _compared(_plain(config)):
        raise SettingError(
            f"{path}: trained with another configuration ({json.dumps(run['config'])[:200]} ...); "
            f"remove it, or name another file"
        )
    if config is not None and run["config"].get(TOLD) != _plain(config).get(TOLD):
        warnings.warn(
            f"{path}: made by other code or on another machine ({run['config'].get(TOLD)}), and "
            "taken as it is",
            stacklevel=2,
        )
    if run["curve"] != _hash(_curve_lines(path, done)):
        raise SettingError(
            f"{curve_file(path)}: damaged, it is not the curve of {path.name}; {_both_anew(path)}"
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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Yields the open file of a checkpoint; any error in the block is one SettingError."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except OSError as error:
        raise SettingError(
            f"{path}: cannot be read ({error.strerror or error}); delete it, and it is made anew"
        ) from None
    except Exception as error:  # a file can be damaged in every way
        raise SettingError(
            f"{path}: expected a checkpoint of this project, but it is damaged or another file "
            f"({error!s:.200}); delete it, and it is made anew"
        ) from None


def _content_hash(run: Mapping, tensors: Mapping[str, Tensor]) -> str:
    """Returns a hash of all that a checkpoint holds, however the file has it."""
    parts = [json.dumps(run, sort_keys=True).encode()]
    for name in sorted(tensors):
        value = tensors[name]
        parts.append(f"{name} {value.dtype} {list(value.shape)}".encode())
        parts.append(value.reshape(-1).view(torch.uint8).numpy())
    return _hash(parts)


def _hash(parts: Iterable) -> str:
    """Returns the sha256 of bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _plain(config: Mapping) -> dict:
    """Returns a configuration as it comes back from a file."""
    return json.loads(json.dumps(config))


def _compared(config: Mapping) -> dict:
    return {name: value for name, value in config.items() if name != TOLD}


# --- the curve ------------------------------------------------------------------------------------


def add_to_curve(path: Path, records: Sequence[Mapping[str, float]]) -> None:
    """Adds lines to the curve of a checkpoint. SettingError: they cannot be written."""
    curve_file(path).parent.mkdir(parents=True, exist_ok=True)
    with _curve_opened(path, "ab") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        file.flush()
        os.fsync(file.fileno())


def read_curve(path: Path, done: int) -> Curve:
    """Returns the first `done` steps of the curve of a checkpoint.

    SettingError: it has fewer, or is damaged.
    """
    curve: Curve = {}
    for number, line in enumerate(_curve_lines(path, done), start=1):
        try:
            for name, value in json.loads(line).items():
                curve.setdefault(name, []).append(value)
        except (ValueError, AttributeError) as error:
            raise SettingError(
                f"{curve_file(path)}, line {number}: damaged ({error}); {_both_anew(path)}"
            ) from None
    return curve


def _curve_lines(path: Path, done: int) -> list[bytes]:
    """Returns the first `done` lines of the curve of a checkpoint. SettingError: it has fewer."""
    file, lines = curve_file(path), []
    if done:
        try:
            with open(file, "rb") as handle:
                lines = list(islice(handle, done))
        except OSError as error:
            raise SettingError(
                f"{file}: cannot be read ({error.strerror or error}); {_both_anew(path)}"
            ) from None
    if len(lines) < done:
        raise SettingError(
            f"{file}: {len(lines)} lines, expected {done}, one for each step that {path.name} "
            f"has done; {_both_anew(path)}"
        )
    return lines


def _both_anew(path: Path) -> str:
    return f"delete {path}, and both are made anew"


def cut_curve(path: Path, done: int) -> None:
    """Drops the lines of the curve beyond `done`: a killed run may have written more than it
    saved. SettingError: it cannot be written.
    """
    if not curve_file(path).is_file():
        return
    with _curve_opened(path, "rb+") as file:
        for _ in range(done):
            file.readline()
        file.truncate()


@contextlib.contextmanager
def _curve_opened(path: Path, mode: str) -> Iterator:
    """Yields the open curve of a checkpoint, to be written; an OSError is one SettingError."""
    try:
        with open(curve_file(path), mode) as file:
            yield file
    except OSError as error:
        raise SettingError(
            f"{curve_file(path)}: cannot be written ({error.strerror or error}); {path.name} is as "
            f"it was last saved, and the next run goes on from there"
        ) from None
