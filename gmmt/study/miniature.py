"""The experiment in miniature: which rows there are, how each is trained, and how it is measured.
Notebooks and `gmmt train` call this.

Every row is loaded if its configuration was trained before, else trained, with all that it builds
on:

    RGB, TIR (stage 1.1)  ->  Base (1.2)  ->  HEAD, TRK, NOISE, RAW, CGAN, DM, ... (2)

The weight of the generative loss (lam) and the learning rate of every row of stage 2 come from the
same small grid, by the success rate on validation videos of a training with a seed of its own; the
choice is stored in the project, and no test video has a part in it.
"""

import ast
import csv
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from gmmt import files, tracking
from gmmt.data import synthetic
from gmmt.data.boxes import read_results, write_results
from gmmt.data.pairs import Pairs
from gmmt.errors import SettingError, did_you_mean
from gmmt.fusion import Fusion, make_fusion
from gmmt.metrics import Scores
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.trackers.base import Tracker
from gmmt.trackers.official import KINDS
from gmmt.trackers.siamese import Siamese
from gmmt.training import STAGES, Plan, Stage, hash_of, load_or_train


@dataclass(frozen=True)
class Setting:
    """A profile's training sequences and frames drawn from each, validation and test sequences,
    their frames, how stages are trained.
    """

    train: tuple[int, int]
    val: int
    test: int
    length: int
    steps: Mapping[str, int]
    batch: int
    source: str = "mini-rgbt"

    def plan(self, stage: str, kind: str) -> Plan:
        """Returns the Plan of a stage of a kind of tracker: AdamW where the paper has SGD, for want
        of steps.
        """
        steps = self.steps.get(f"{stage[:3]} {kind}", self.steps[stage[:3]])
        # A ViT must learn first to compare patches, and does so late: its rate may not fall as far
        # as that of others.
        return Plan(
            steps,
            self.batch,
            rate=1e-3 if stage == "2" else 2e-3,
            last=0.01 if kind == "siamese" else 0.1,
        )


@dataclass(frozen=True)
class Row:
    """A row of a table: a tracker in a mode, and in mode "stage2" what makes `fused` (nothing: the
    tracker itself, under a new head).
    """

    mode: str
    variant: str = ""
    network: str = "unet"
    options: Mapping[str, str] = field(default_factory=dict)
    meaning: str = ""
    tracker: str = "siamese"
    longer: str = ""  # the stage by whose steps the row's last one is longer


_CONTENT = json.loads(files.resource("miniature.json").read_text(encoding="utf-8"))
SETTINGS: Mapping[str, Setting] = {
    name: Setting(**fields) for name, fields in _CONTENT["profiles"].items()
}
"""Setting of each profile; `paper` takes that of `gpu`: a miniature does not grow."""
ALL_ROWS: Mapping[str, Row] = {name: Row(**fields) for name, fields in _CONTENT["rows"].items()}
ROWS: Mapping[str, Row] = {name: row for name, row in ALL_ROWS.items() if row.tracker == "siamese"}
"""The rows of Table 2, all on the Siamese tracker; the others are those of the supplement's Table 6
on trackers with a ViT.
"""
TRACKERS: Mapping[str, Mapping[str, str]] = {
    "siamese": {"1.1 rgb": "RGB", "1.1 tir": "TIR", "1.2": "Base"},
    "ostrack": {"1.1 rgb": "OSTrack"},
    "vipt": {"1.2": "ViPT"},
    "tbsi": {"1.2": "TBSI"},
}
"""Which row each stage before the last one makes."""


@cache
def choices() -> Mapping[str, Mapping[str, float]]:
    """Returns the chosen plan of each row, {"lam": ..., "rate": ...}, from the stored choices;
    empty where nothing was chosen yet.
    """
    paths = sorted(files.stored_results_dir().glob("miniature*/choices.csv"))
    rows = [
        row
        for path in paths
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]
    return {
        r["row"]: {k: float(r[k]) for k in ("lam", "rate") if r[k]}
        for r in rows
        if r["chosen"] == "True"
    }


def setting(profile: str, source: str = "mini-rgbt") -> Setting:
    """Returns a profile's setting for a source of video (see data/synthetic.py)."""
    return replace(SETTINGS["gpu" if profile == "paper" else profile], source=source)


def plan_of(name: str, stage: str, profile: str, changes: Mapping | None = None) -> Plan:
    """Returns the Plan of a row's stage: the profile's, with `changes`, or with the stored choice
    if that is None.
    """
    row = ALL_ROWS[name]
    own, makes = setting(profile).plan(stage, row.tracker), TRACKERS[row.tracker]
    changes = choices().get(makes.get(stage, name), {}) if changes is None else changes
    if stage == "2" and row.variant in ("", "TRK"):
        own = replace(own, lam=0.0)
    longer = setting(profile).steps[row.longer] if row.longer and stage == [*makes][-1] else 0
    return replace(own, **{"steps": own.steps + longer, **changes})


@cache
def training_frames(n: int, frames: int, length: int, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns `frames` random frames [S, F, 4, H, W] of each training sequence and their boxes [S,
    F, 4], drawn anew in a few seconds.
    """
    sequences, rng = synthetic.benchmark("train", n, length, source), np.random.default_rng(0)
    at = [np.sort(rng.choice(length, frames, replace=False)) for _ in sequences]
    images = np.stack(
        [np.stack([s.frame(i) for i in a]) for s, a in zip(sequences, at, strict=True)]
    )
    return images, np.stack([s.boxes[a] for s, a in zip(sequences, at, strict=True)])


def training_pairs(
    n: int, frames: int, length: int, source: str, like: type[Tracker] = Siamese
) -> Pairs:
    """Returns what draws batches from these frames, with crops as trackers `like` the one to be
    trained have them.
    """
    return Pairs(*training_frames(n, frames, length, source), template=32, search=64, like=like)


@cache
def sequences(profile: str, split: str, source: str = "mini-rgbt") -> list[synthetic.Sequence]:
    """Returns the profile's validation or test sequences."""
    s = setting(profile, source)
    return synthetic.benchmark(split, {"val": s.val, "test": s.test}[split], s.length, source)


@cache
def code_hash() -> str:
    """Returns a hash of the code that training depends on, so that changed code never loads older
    weights; words do not count.
    """
    digest = hashlib.sha256()
    for part in (
        "training",
        "fusion",
        "schedule",
        "trackers/*",
        "networks/*",
        "data/*",
        "draws",
    ):
        for path in sorted(files.PACKAGE.glob(f"{part}.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(body := getattr(node, "body", None), list):
                    node.body = [
                        n
                        for n in body
                        if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
                    ]
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def make_tracker(kind: str) -> Tracker:
    """Returns an untrained tracker of the miniature's size: for the ViTs four blocks, 64 channels,
    and patches of 8 pixels.
    """
    if kind == "siamese":
        return Siamese()
    # With a head of 32 channels the last layers have 4, and the size died in two of four trainings.
    sizes = {
        "hidden": 64,
        "dim": 64,
        "depth": 4,
        "heads": 4,
        "patch": 8,
        "template": 32,
        "search": 64,
    }
    return KINDS[kind](**sizes, **({"at": (1, 2)} if kind == "tbsi" else {"keep": {}}))


def make_u(row: Row, channels: int) -> Fusion:
    """Returns the row's untrained fusion: U with about 0.3 M parameters, and D for a CGAN."""
    network = (
        UNet(channels, 3, inner=24, groups=4)
        if row.network == "unet"
        else UViT(channels, 2, dim=64, heads=4)
    )
    extra = (
        {"discriminator": Discriminator(channels, size=16, widths=(64, 32, 16))}
        if row.variant == "CGAN"
        else {}
    )
    return make_fusion(row.variant, network, channels, **extra, **row.options)


@dataclass(frozen=True)
class Trained:
    """A trained row: its tracker, the mode that `tracking.track` wants, a key of its configuration,
    and the curve of each stage.
    """

    name: str
    tracker: Tracker
    mode: str
    key: str
    curves: Mapping[str, Mapping[str, list[float]]]


def train(
    name: str,
    profile: str,
    seed: int,
    folder: Path,
    *,
    source: str = "mini-rgbt",
    plan: Mapping | None = None,
    base_plan: Mapping | None = None,
    progress: bool = False,
) -> Trained:
    """Returns a row of ALL_ROWS, trained, with weights kept in `folder`; SettingError if there is
    no such row.

    `plan` changes the Plan of stage 2, `base_plan` that of stage 1.2: {"lam": 3.0}, for example;
    None takes the stored choice.
    """
    if name not in ALL_ROWS:
        raise SettingError(
            f"there is no row {name!r}: expected one of "
            f"{', '.join(ALL_ROWS)}.{did_you_mean(name, ALL_ROWS)}"
        )
    row, s = ALL_ROWS[name], setting(profile, source)
    makes = TRACKERS[row.tracker]
    until = {"rgb": ("1.1 rgb",), "tir": ("1.1 tir",), "base": (*makes,)}.get(row.mode, STAGES)

    def pairs() -> Pairs:
        """Returns the training pairs, and sets what stage 2 standardises features by; called only
        where something is trained.
        """
        own = training_pairs(*s.train, s.length, source, type(tracker))
        if tracker.fusion is not None:
            with torch.no_grad():
                crops = [own.batch(64, (seed, 9, k))[:2] for k in range(4)]
                batches = [
                    tracker.streams(tracker.encode_template(z, "stage2"), x) for z, x in crops
                ]
                f_1, f_2, fused = (torch.cat(f) for f in zip(*batches, strict=True))
                tracker.fusion.fit(fused, f_1, f_2)
        return own

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tracker, curves, on = make_tracker(row.tracker), {}, []
        if row.tracker in ("vipt", "tbsi"):
            first = train("OSTrack", profile, seed, folder, source=source, progress=progress)
            tracker.inherit(first.tracker)
            curves, on = dict(first.curves), [first.key]
        for stage in tracker.stages():
            if stage not in until:
                continue
            config = {"code": code_hash(), "train": s.train, "length": s.length, "source": source}
            config |= {"tracker": hash_of(repr(tracker)), "on": on if stage in ("1.2", "2") else []}
            if stage == "2":
                torch.manual_seed(seed + 1)  # every row: the same first weights of U
                tracker.fusion = make_u(row, tracker.channels) if row.variant else None
                config |= {
                    "row": asdict(replace(row, meaning="")),
                    "u": hash_of(repr(tracker.fusion)),
                }
            own = plan_of(
                name, stage, profile, plan if stage == "2" else base_plan if stage == "1.2" else {}
            )
            learner, options = (
                Stage(tracker, stage, own.lam),
                {"folder": Path(folder), "seed": seed, "progress": progress},
            )
            key, curves[stage] = load_or_train(
                makes.get(stage, name), learner, own, pairs, config=config, **options
            )
            on = [*on, key]
    return Trained(name, tracker.eval(), row.mode, key, curves)


def results(
    t: Trained,
    profile: str,
    split: str,
    folder: Path,
    *,
    source: str = "mini-rgbt",
    steps: int = 1,
    seed: int | None = 0,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the boxes of each sequence of a split, from the result files of an earlier call if
    there are any.

    `steps` and `seed` are those of GMMT's sampler; seed None stands for zeros in the noise's place.
    """
    videos = sequences(profile, split, source)
    where = (
        Path(folder)
        / f"{split}-{source}"
        / f"{t.name}-{t.key}"
        / f"s{steps}-z{seed}-{synthetic.fingerprint(videos)}"
    )
    if (where / "done.json").is_file():
        return read_results(where, [v.name for v in videos], prefix="")
    boxes = tracking.track(t.tracker, t.mode, videos, steps=steps, seed=seed, progress=progress)
    write_results(boxes, where)
    with files.atomic_write(where / "done.json") as file:
        json.dump(
            {"row": t.name, "key": t.key, "profile": profile, "steps": steps, "noise": seed}, file
        )
    return read_results(
        where, [v.name for v in videos], prefix=""
    )  # rounded as in the files, whether it was new or not


def scores(
    t: Trained, profile: str, split: str, folder: Path, **options
) -> tuple[Scores, dict[str, Scores]]:
    """Returns the row's scores by sequence, and those of each attribute; arguments as in
    `results`.
    """
    return tracking.evaluate(
        results(t, profile, split, folder, **options),
        sequences(profile, split, options.get("source", "mini-rgbt")),
    )
