"""The experiment in miniature: which rows there are, how each is trained, and how it is measured. Notebooks and `gmmt train` call this.

Every row is loaded if its configuration was trained before, else trained, with all that it builds on:

    RGB, TIR (stage 1.1)  ->  Base (1.2)  ->  HEAD, TRK, NOISE, RAW, CGAN, DM, ... (2)

The weight of the generative loss (lam) and the learning rate of every row of stage 2 come from the same small grid, by the success rate on
validation videos of a training with a seed of its own; the choice is stored in the project, and no test video has a part in it.
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
from gmmt.data import benchmarks, synthetic
from gmmt.errors import SettingError
from gmmt.fusion import Fusion, make_fusion
from gmmt.metrics import Scores
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT
from gmmt.notebook import did_you_mean
from gmmt.trackers.siamese import Siamese
from gmmt.training import Pairs, Plan, Stage, hash_of, load_or_train


@dataclass(frozen=True)
class Setting:
    """A profile's training sequences and frames drawn from each, validation and test sequences, their frames, and plans of the stages."""

    train: tuple[int, int]
    val: int
    test: int
    length: int
    plans: Mapping[str, Plan]
    source: str = "mini-rgbt"


def _plans(one: int, two: int, three: int, batch: int = 32) -> dict[str, Plan]:
    return {"1.1": Plan(one, batch), "1.2": Plan(two, batch), "2": Plan(three, batch, rate=1e-3)}


SETTINGS: Mapping[str, Setting] = {
    "smoke": Setting((40, 6), 8, 8, 16, _plans(12, 12, 8)),
    "cpu": Setting((1504, 6), 150, 150, 48, _plans(800, 1600, 1600, batch=16)),
    "gpu": Setting((8000, 8), 241, 233, 48, _plans(4000, 8000, 8000, batch=64)),
}
"""Setting of each profile (`paper` takes that of `gpu`: a miniature does not grow); AdamW where the paper has SGD, for want of steps."""


@dataclass(frozen=True)
class Row:
    """A row of the table: what is trained in stage 2 (nothing for RGB, TIR and Base)."""

    mode: str
    variant: str = ""
    network: str = "unet"
    options: Mapping[str, str] = field(default_factory=dict)
    meaning: str = ""


ROWS: Mapping[str, Row] = {
    "RGB": Row("rgb", meaning="the RGB tracker alone (stage 1.1)"),
    "TIR": Row("tir", meaning="the thermal tracker alone (stage 1.1)"),
    "Base": Row("base", meaning="both, fused by one convolution (stage 1.2)"),
    "Base-long": Row("base", meaning="Base, trained for as many steps as stages 1.2 and 2 together: control"),
    "HEAD": Row("stage2", meaning="Base's fused features under stage 2's new head: control"),
    "TRK": Row("stage2", "TRK", meaning="U without a generative loss: control"),
    "NOISE": Row("stage2", "NOISE", meaning="RAW with noise at its input: control"),
    "RAW": Row("stage2", "RAW", meaning="U by regression to fused"),
    "CGAN": Row("stage2", "CGAN", meaning="U as generator of a conditional GAN"),
    "DM": Row("stage2", "DM", options={"track_t": "last"}, meaning="U by diffusion, the head trained at the t that is used at test"),
    "DM-random": Row("stage2", "DM", options={"track_t": "random"}, meaning="DM, the head trained at random t (released)"),
    "DM-released": Row("stage2", "DM", options={"track_t": "random", "weighting": "released"}, meaning="DM with the released weighting"),
    "DM-noise": Row("stage2", "DM", options={"track_t": "random", "target": "noise"}, meaning="DM that predicts noise (the paper's text)"),
    "RAW-uvit": Row("stage2", "RAW", "uvit", meaning="RAW with the UViT"),
    "DM-uvit": Row("stage2", "DM", "uvit", {"track_t": "last"}, meaning="DM with the UViT"),
}


GRID = ((1.0, 1e-3), (0.1, 1e-3), (10.0, 1e-3), (1.0, 5e-4), (1.0, 2e-3))
"""(lam, rate) that every row is offered, written down before any was tried; Base, which has no lam, is offered twice these rates."""

GRID_SEED = 1000
"""Seed of the trainings behind the choice; no number in a table comes from them."""


def grid(name: str) -> tuple[dict[str, float], ...]:
    """Returns the plans that Base or a row of stage 2 is offered, {"lam": ..., "rate": ...} each; all stand on the Base that was chosen."""
    if name == "Base":
        return tuple({"rate": 2 * rate} for lam, rate in GRID if lam == 1)
    if ROWS[name].mode != "stage2":
        return ()
    alone = ROWS[name].variant in ("", "TRK")
    return tuple({"lam": 0.0 if alone else lam, "rate": rate} for lam, rate in GRID if lam == 1 or not alone)


@cache
def choices() -> Mapping[str, Mapping[str, float]]:
    """Returns the chosen plan of each row, {"lam": ..., "rate": ...}, from the stored choices; empty where nothing was chosen yet."""
    path = files.stored_results_dir() / "miniature" / "choices.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
    return {r["row"]: {k: float(r[k]) for k in ("lam", "rate") if r[k]} for r in rows if r["chosen"] == "True"}


def setting(profile: str, source: str = "mini-rgbt") -> Setting:
    """Returns a profile's setting for a source of video (see data/synthetic.py)."""
    return replace(SETTINGS["gpu" if profile == "paper" else profile], source=source)


def plan_of(name: str, stage: str, profile: str, changes: Mapping | None = None) -> Plan:
    """Returns the Plan of stage "1.2" or "2" of a row: the profile's, with `changes`, or with the stored choice if that is None."""
    plans = setting(profile).plans
    changes = choices().get("Base" if stage == "1.2" else name, {}) if changes is None else changes
    if stage == "1.2":
        more = plans["2"].steps if name == "Base-long" else 0
        return replace(plans["1.2"], steps=plans["1.2"].steps + more, **changes)
    return replace(plans["2"], **({"lam": 0.0} if ROWS[name].variant in ("", "TRK") else {}) | dict(changes))


@cache
def training_pairs(n: int, frames: int, length: int, source: str) -> Pairs:
    """Returns the training split in memory: `frames` random frames of each sequence, drawn anew in a few seconds."""
    sequences, rng = synthetic.benchmark("train", n, length, source), np.random.default_rng(0)
    at = [np.sort(rng.choice(length, frames, replace=False)) for _ in sequences]
    images = np.stack([np.stack([s.frame(i) for i in a]) for s, a in zip(sequences, at, strict=True)])
    return Pairs(images, np.stack([s.boxes[a] for s, a in zip(sequences, at, strict=True)]), template=32, search=64)


@cache
def sequences(profile: str, split: str, source: str = "mini-rgbt") -> list[synthetic.Sequence]:
    """Returns the profile's validation or test sequences."""
    s = setting(profile, source)
    return synthetic.benchmark(split, {"val": s.val, "test": s.test}[split], s.length, source)


@cache
def code_hash() -> str:
    """Returns a hash of the code that training depends on, so that changed code never loads older weights; words do not count."""
    digest = hashlib.sha256()
    for part in ("training", "fusion", "schedule", "trackers/*", "networks/*", "data/crops", "data/synthetic"):
        for path in sorted(files.PACKAGE.glob(f"{part}.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(body := getattr(node, "body", None), list):
                    node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def make_u(row: Row, channels: int) -> Fusion:
    """Returns the row's untrained fusion: U with about 0.3 M parameters, and D for a CGAN."""
    network = UNet(channels, 3, inner=24, groups=4) if row.network == "unet" else UViT(channels, 2, dim=64, heads=4)
    extra = {"discriminator": Discriminator(channels, size=16, widths=(64, 32, 16))} if row.variant == "CGAN" else {}
    return make_fusion(row.variant, network, channels, **extra, **row.options)


@dataclass(frozen=True)
class Trained:
    """A trained row: its tracker, the mode that `tracking.track` wants, a key of its configuration, and the curve of each stage."""

    name: str
    tracker: Siamese
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
    """Returns a row of ROWS, trained, with weights kept in `folder`.

    `plan` changes the Plan of stage 2, `base_plan` that of stage 1.2: {"lam": 3.0}, for example; None takes the stored choice.

    Raises:
        SettingError: there is no such row.
    """
    if name not in ROWS:
        raise SettingError(f"there is no row {name!r}: expected one of {', '.join(ROWS)}.{did_you_mean(name, ROWS)}")
    row, s = ROWS[name], setting(profile, source)
    base = {"code": code_hash(), "train": s.train, "length": s.length, "source": source}
    options = {"folder": Path(folder), "seed": seed, "progress": progress}

    def pairs() -> Pairs:
        """Returns the training pairs, and sets what stage 2 standardises features by; called only where something is trained."""
        own = training_pairs(*s.train, s.length, source)
        if tracker.fusion is not None:
            with torch.no_grad():
                crops = [own.batch(64, (seed, 9, k))[:2] for k in range(4)]
                batches = [tracker.streams(tracker.encode_template(z, "stage2"), x) for z, x in crops]
                f_rgb, f_tir, fused = (torch.cat(f) for f in zip(*batches, strict=True))
                tracker.fusion.fit(fused, f_rgb, f_tir)
        return own

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tracker = Siamese()
        curves, keys = {}, []
        for m in ("rgb", "tir"):
            if row.mode in (m, "base", "stage2"):
                stage = Stage(tracker, f"1.1 {m}")
                key, curves[stage.stage] = load_or_train(m.upper(), stage, s.plans["1.1"], pairs, config=base, **options)
                keys.append(key)
        if row.mode in ("base", "stage2"):
            own = plan_of(name, "1.2", profile, base_plan)
            key, curves["1.2"] = load_or_train("Base", Stage(tracker, "1.2"), own, pairs, config=base | {"on": keys}, **options)
        if row.mode == "stage2":
            torch.manual_seed(seed + 1)  # every row: the same first weights of U
            if row.variant:
                tracker.fusion = make_u(row, tracker.channels)
            own = plan_of(name, "2", profile, plan)
            config = base | {"on": key, "row": asdict(replace(row, meaning="")), "u": hash_of(repr(tracker.fusion))}
            key, curves["2"] = load_or_train(name, Stage(tracker, "2", own.lam), own, pairs, config=config, **options)
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
    """Returns the boxes of each sequence of a split, from the result files of an earlier call if there are any.

    `steps` and `seed` are those of GMMT's sampler; seed None stands for zeros in the noise's place.
    """
    videos = sequences(profile, split, source)
    where = Path(folder) / f"{split}-{source}" / f"{t.name}-{t.key}" / f"s{steps}-z{seed}-{synthetic.fingerprint(videos)}"
    if (where / "done.json").is_file():
        return benchmarks.read_results(where, [v.name for v in videos], prefix="")
    boxes = tracking.track(t.tracker, t.mode, videos, steps=steps, seed=seed, progress=progress)
    tracking.write_results(boxes, where)
    with files.atomic_write(where / "done.json") as file:
        json.dump({"row": t.name, "key": t.key, "profile": profile, "steps": steps, "noise": seed}, file)
    return benchmarks.read_results(where, [v.name for v in videos], prefix="")  # rounded as in the files, whether it was new or not


def scores(t: Trained, profile: str, split: str, folder: Path, **options) -> tuple[Scores, dict[str, Scores]]:
    """Returns the row's scores by sequence, and those of each attribute; arguments as in `results`."""
    return tracking.evaluate(results(t, profile, split, folder, **options), sequences(profile, split, options.get("source", "mini-rgbt")))
