"""From a configuration to a trained tracker: every stage is loaded if this very configuration was
trained before with this very code, else trained and kept.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock

from gmmt import checkpoint, compute, files
from gmmt.build import make_generator, make_tracker, start_file, take_official
from gmmt.checkpoint import Curve
from gmmt.config import Config, module_of, plain
from gmmt.data import loader
from gmmt.data.manifest import sha256
from gmmt.data.pairs import Pairs
from gmmt.data.samples import Samples
from gmmt.errors import SettingError
from gmmt.provenance import code_hash, short_hash
from gmmt.trackers.base import Tracker
from gmmt.training import Stage, fit

EVALUATION = ("val", "test", "root", "part", "workers")
"""Fields of Data on which no training depends."""
ELSEWHERE = "keep weights in another folder (--weights DIR, or GMMT_RUNS for notebooks and batches)"


@dataclass(frozen=True)
class Trained:
    """A trained row: its configuration, its tracker, the key and the curve of each stage."""

    config: Config
    seed: int
    tracker: Tracker
    keys: Mapping[str, str]  # by stage; of a foundation's stages, too
    curves: Mapping[str, Curve]
    folder: Path

    @property
    def name(self) -> str:
        """The row's name."""
        return self.config.name

    @property
    def mode(self) -> str:
        """Which head answers."""
        return self.config.mode

    @property
    def key(self) -> str:
        """The key of all that the weights depend on."""
        return list(self.keys.values())[-1]

    @property
    def file(self) -> Path:
        """Where the last stage's weights are."""
        return weights_file(self.folder, self.name, self.key)


def weights_file(folder: Path, name: str, key: str) -> Path:
    """Returns where the weights of a stage are kept."""
    return folder / f"{name}-{key}.safetensors"


def train(
    config: Config, seed: int, folder: Path, *, progress: bool = False, logs: Path | None = None
) -> Trained:
    """Returns a row, trained, with weights kept in `folder`; what TensorBoard shows goes to `logs`.

    Two runs that want the same weights wait for one another; the processes of one run (torchrun)
    work together.
    """
    folder = Path(folder)
    if not config.stages:  # official weights alone
        return load(config, seed, folder)
    whats = what_decides(config, seed)
    keys = {stage: key_of(what) for stage, what in whats.items()}
    with compute.threads(config.compute.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tracker = make_tracker(config)
        curves: dict[str, Curve] = {}
        if config.foundation is not None:
            below = train(config.foundation, seed, folder, progress=progress, logs=logs)
            tracker.inherit(below.tracker)
            curves.update(below.curves)
        if config.start is not None:
            take_official(tracker, config)
        for name in config.stages:
            if name == "2":
                torch.manual_seed(seed + 1)  # every row: the same first weights of U
                tracker.fusion = make_generator(config, tracker.channels)
            stage = Stage(tracker, name, config.plans[name])
            path = weights_file(folder, config.names[name], keys[name])
            options = {"progress": progress, "logs": logs}
            curves[name] = load_or_train(stage, config, path, whats[name], seed, **options)
        tracker.to(compute.device())
    return Trained(config, seed, tracker.eval(), keys, curves, folder)


def steps_left(config: Config, seed: int, folder: Path) -> dict[str, int]:
    """Returns which rows are not trained yet, of this one and those that it is built on, with the
    steps that each still needs.
    """
    whats, left = what_decides(config, seed), {}
    for row in (config.foundation, config):
        for stage in () if row is None else row.stages:
            path = weights_file(folder, row.names[stage], key_of(whats[stage]))
            left[row.names[stage]] = row.plans[stage].steps - checkpoint.steps_done(path)
    return {name: steps for name, steps in left.items() if steps > 0}


def what_decides(config: Config, seed: int) -> dict[str, dict]:
    """Returns, for each stage, all that its weights depend on; those of a foundation come first.

    The key of a stage is a hash of it. Stage 1.1 stands on nothing, a later one on all before it.
    """
    found: dict[str, dict] = {}
    if config.foundation is not None:
        found.update(what_decides(config.foundation, seed))
    for stage in config.stages:
        before = [] if stage.startswith("1.1") else [key_of(what) for what in found.values()]
        found[stage] = {"stage": stage, "seed": seed, "on": before, **_what(config, stage)}
    return found


def key_of(what: Mapping) -> str:
    """Returns the key of all that weights depend on, without what is only told of them."""
    return short_hash({name: value for name, value in what.items() if name != checkpoint.TOLD})


def _what(config: Config, stage: str) -> dict:
    """Returns what a stage's weights depend on, but for seed and earlier stages.

    Of drawn videos that is the code of training and of the parts in use, too, and of the machine
    what decides the last digits. A training on a data set takes days, and must survive an update,
    or another GPU: there both are only told.
    """
    modules = ["gmmt.experiment", module_of(config.tracker)]
    if stage == "2" and config.generator is not None:
        modules.append(module_of(config.generator.network))
        if config.generator.discriminator is not None:
            modules.append(module_of(config.generator.discriminator))
    made_by = {"code": code_hash(*modules), "machine": compute.describe(compute.device())}
    what = _asked(config, stage) | {"files": loader.fingerprint(config.data)}
    if loader.is_drawn(config.data):
        return what | made_by
    return what | {checkpoint.TOLD: made_by}


def _asked(config: Config, stage: str) -> dict:
    """Returns what a configuration says of a stage's weights."""
    data = asdict(config.data)
    for field in EVALUATION:
        del data[field]
    asked = {
        "data": data,
        "tracker": plain(config.tracker),
        "plan": asdict(config.plans[stage]),
        "compute": asdict(config.compute),
    }
    if config.start is not None:
        asked["start"] = _start(config)
    if stage == "2":
        asked["mode"] = config.mode
        asked["generator"] = plain(config.generator)
    return asked


def _start(config: Config) -> list[str] | None:
    """Returns kind and hash of the official weights that a row starts from, if any."""
    if config.start is None:
        return None
    return [config.start.kind, sha256(start_file(config))]


def load(config: Config, seed: int, folder: Path) -> Trained:
    """Returns a row of a data set that was trained before, by its weights alone: neither the videos
    nor the machine that it was trained on need be here.

    SettingError: it was not, or not to its end; or several trainings fit (on other videos).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tracker = make_tracker(config)
        if config.start is not None:
            take_official(tracker, config)
        keys = {"start": short_hash([_start(config), plain(config.tracker), seed])}
        if config.stages:
            keys = _kept(config, seed, folder)
        for name, key in keys.items() if config.stages else ():
            if name == "2":
                tracker.fusion = make_generator(config, tracker.channels)
            path = weights_file(folder, config.names[name], key)
            _, weights, _ = checkpoint.load(path, None)
            Stage(tracker, name, config.plans[name]).take(weights, path)
    tracker.to(compute.device())
    return Trained(config, seed, tracker.eval(), keys, {}, folder)


def _kept(config: Config, seed: int, folder: Path) -> dict[str, str]:
    """Returns the key of each stage of the one training of a row that is kept in a folder."""
    *earlier, last = config.stages
    asked, name, found = _asked(config, last), config.names[last], []
    asked = json.loads(json.dumps(asked | {"stage": last, "seed": seed}))
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        told = checkpoint.read_config(path)
        if all(told.get(field) == value for field, value in asked.items()):
            found.append(path)
    if len(found) > 1:  # on other videos: those that are here say which
        with contextlib.suppress(SettingError):
            key = key_of(what_decides(config, seed)[last])
            found = [path for path in found if path.stem == f"{name}-{key}"] or found
    if len(found) > 1:
        raise SettingError(
            f"{folder}: {len(found)} trainings of {name} fit ({', '.join(p.name for p in found)}); "
            "expected one. Move the others elsewhere"
        )
    done = checkpoint.steps_done(found[0]) if found else 0
    left = config.plans[last].steps - done
    if left:
        raise SettingError(
            f"{name} is not trained yet in {folder}: {left} steps of stage {last} are left. Train "
            "it with the same options (gmmt train --config ...), or name its folder: --weights DIR"
        )
    before = checkpoint.read_config(found[0])["on"][-len(earlier) :] if earlier else []
    key = found[0].stem.removeprefix(f"{name}-")
    return dict(zip(earlier, before, strict=True)) | {last: key}


def load_or_train(
    stage: Stage,
    config: Config,
    path: Path,
    what: dict,
    seed: int,
    progress: bool = False,
    logs: Path | None = None,
) -> Curve:
    """Returns the curve of a stage after its weights were loaded or trained; the tracker is then on
    its device, in torch's own layout, whichever it was.
    """
    accelerator = compute.accelerator(len(stage.turns) > 1, logs)
    with _alone(path, stage.plan.steps, accelerator):
        done = 0
        if os.path.isfile(path):
            done, weights, _ = checkpoint.load(path, what)
        if done < stage.plan.steps:
            compute.layout(stage, compute.device(), fast=False)
            pairs = make_pairs(config, stage.tracker)
            if stage.generates:
                standardise(stage.tracker, pairs, config, seed)
            options = {"precision": config.compute.precision, "parts": config.compute.parts}
            options["progress"] = progress
            options["accelerator"] = accelerator
            if logs is not None:
                accelerator.init_trackers(path.stem)
            with compute.repeatable(compute.device()):
                curve = fit(stage, pairs, path, seed=seed, config=what, **options)
        elif done:
            stage.take(weights, path)
            curve = checkpoint.read_curve(path, done)
        else:  # a plan of no steps: the stage as it begins
            curve = {}
        compute.layout(stage, compute.device(), fast=False)
    for tracker in accelerator.trackers:  # end_training() would part the processes, too
        tracker.finish()
    stage.eval()
    return curve


@contextlib.contextmanager
def _alone(path: Path, steps: int, accelerator: Accelerator) -> Iterator[None]:
    """Keeps other runs from weights that are to be trained; of the processes of one run the first
    holds the lock. Trained weights, which nobody writes any more, are read without one.
    """
    lock = contextlib.nullcontext()
    if accelerator.is_main_process and checkpoint.steps_done(path) < steps:
        lock = _locked(path)
    with lock:
        accelerator.wait_for_everyone()
        yield
        accelerator.wait_for_everyone()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for other runs that train these weights. SettingError, at once: nothing can be written
    or locked where they are to be kept.
    """
    files.check_writable(path, ELSEWHERE)
    probe = path.with_name(f".lock.{uuid.uuid4().hex}")
    try:
        with FileLock(probe, timeout=0):  # nobody else has it: if it cannot be had, there are none
            probe.unlink(missing_ok=True)
        lock = FileLock(f"{path}.lock").acquire()
    except (OSError, NotImplementedError) as error:
        raise SettingError(
            f"{path.parent}: files cannot be locked there ({error}), and two runs would spoil each "
            f"other's weights; {ELSEWHERE}"
        ) from None
    finally:
        probe.unlink(missing_ok=True)
    with lock:
        checkpoint.sweep(path)
        yield


def make_pairs(config: Config, tracker: Tracker) -> Pairs | Samples:
    """Returns what draws training batches from a configuration's data, cut as the tracker wants."""
    return loader.training_pairs(config.data, tracker.crops, compute.device())


@torch.no_grad()
def standardise(tracker: Tracker, pairs: Pairs, config: Config, seed: int) -> None:
    """Lets GMMT take mean and deviation of the frozen tracker's features from training pairs."""
    batches, size = config.generator.statistics
    every: list[list[torch.Tensor]] = []
    for template, search, _ in pairs.batches((seed, 9), 0, batches, size):
        streams = tracker.streams(tracker.encode_template(template, config.mode), search)
        every.append(list(streams))
    *features, fused = (torch.cat(parts) for parts in zip(*every, strict=True))
    tracker.fusion.fit(fused, *features)
