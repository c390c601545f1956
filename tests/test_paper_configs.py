"""configs/paper: every row of the paper's tables is planned as the supplement says, can be built at
full size, and runs from training to a score.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from trees import make_tree
from typer.testing import CliRunner

from gmmt import config_file, files, results
from gmmt.build import make_generator, make_tracker
from gmmt.cli import app
from gmmt.trackers.official import RELEASED_INPUT
from gmmt.trackers.siamese import OFFICIAL_READING

PAPER = files.config_dir() / "paper"
ROWS = sorted(path.stem for path in PAPER.glob("[!_]*.yaml"))
KINDS = ("siamese", "vipt", "tbsi")
PLANS = {  # supplement, Table 2: stage -> kind -> (batch, epochs, optimiser, base rate)
    "1.1": {"siamese": (8, 20, "sgd", 0.005)},
    "1.2": {"siamese": (8, 20, "sgd", 0.005), "vipt": (32, 100, "adamw", 0.0004)},
    "2": {
        "siamese": (8, 100, "sgd", 0.005),
        "vipt": (32, 100, "sgd", 0.005),
        "tbsi": (32, 100, "sgd", 0.005),
    },
}
RATES = {20: (5, 0.001, 0.005, 0.00005), 100: (20, 0.001, 0.005, 0.00005)}
"""Epochs: the warm-up's, the first rate, the highest, the last (SGD)."""


def loaded(row, profile="paper", **changes):
    with warnings.catch_warnings(action="ignore"):  # of a profile without CUDA
        return config_file.load(PAPER / f"{row}.yaml", profile, changes)


def kind_of(row):
    return row.partition("_")[0]


def test_there_is_a_file_for_each_row():
    assert set(ROWS) >= {"siamese", "vipt", "tbsi"}
    made = {
        f"{k}_{v}_{u}" for k in KINDS for v in ("gmmt", "cgan", "raw") for u in ("unet", "uvit")
    }
    assert set(ROWS) == {*KINDS, *made}
    # What they are called is what the tables call them, where a table has them.
    table = results.published()
    told = set(table[table.source.isin(["paper Table 1", "supp Table 6"])].method)
    names = {loaded(row).meaning for row in ROWS}
    assert {n for n in told if re.match(r"(Siamese|ViPT\*|TBSI)(\+GMMT\(.\))?$", n)} <= names


@pytest.mark.parametrize("row", ROWS)
def test_plans_are_the_supplements(row):
    config, kind = loaded(row), kind_of(row)
    expected = {"siamese": ("1.1 rgb", "1.1 tir", "1.2"), "vipt": ("1.2",), "tbsi": ()}[kind]
    assert config.stages == ((*expected, "2") if "_" in row else expected)
    for stage, plan in config.plans.items():
        batch, epochs, optimizer, rate = PLANS[stage[:3].strip()][kind]
        assert (plan.batch, plan.epochs, plan.optimizer, plan.rate) == (
            *(batch, epochs, optimizer, rate),
        )
        assert plan.weight_decay == 0.0001
        assert plan.steps == epochs * (60000 // batch)
        if optimizer == "sgd":
            warm, first, highest, last = RATES[epochs]
            per_epoch = plan.steps // epochs
            rates = np.array([plan.rate_at(e * per_epoch) for e in range(epochs)])
            assert rates[[0, warm, -1]] == pytest.approx([first, highest, last])
            assert (np.diff(rates[: warm + 1]) > 0).all()
            assert (np.diff(rates[warm:]) < 0).all()
            within = [plan.rate_at(per_epoch * 7 + k) for k in (0, per_epoch // 2, per_epoch - 1)]
            assert len(set(within)) == 1
    if config.generator is not None and config.generator.variant == "DM":
        assert config.generator.schedule.T == 1000


def test_the_supplements_table_says_so(shared):
    """The numbers above against the facts read from the supplement."""
    text = (shared / "paper" / "supplement_facts.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.split("## Training configuration")[1].split("\n##")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4:
            rows[cells[0]] = dict(zip(("1.1", "1.2", "2"), cells[1:], strict=True))
    for stage, kinds in PLANS.items():
        for i, kind in enumerate(KINDS):
            told = [
                rows[name][stage].split(" / ") for name in ("batch size", "epochs", "optimiser")
            ]
            batch, epochs, optimizer = (cell[i] for cell in told)
            if kind not in kinds:
                assert (batch, epochs, optimizer) == ("-", "-", "-")
                continue
            rate = rows["base LR"][stage].split(" / ")
            rate = rate[min(i, len(rate) - 1)]
            assert kinds[kind] == (int(batch), int(epochs), optimizer.lower(), float(rate))
    for stage, epochs in (("1.1", 20), ("2", 100)):
        warm, first, highest, last = RATES[epochs]
        a, b = rows["LR plan"][stage].split(", ")
        assert a == f"1-{warm}: {first}->{highest}"
        assert b.startswith(f"{warm + 1}-{epochs}: {highest}->")
        assert float(b.split("->")[1]) == last
    assert rows["weight decay"]["2"] == "0.0001"
    assert rows["T, sampler"]["2"].startswith("1000")


@pytest.mark.parametrize("row", ROWS)
def test_full_size_models_are_built_without_memory(row):
    config = loaded(row)
    with torch.device("meta"):
        tracker = make_tracker(config)
        tracker.fusion = make_generator(config, tracker.channels)
    millions = sum(p.numel() for p in tracker.parameters()) / 1e6
    if config.mode == "base":  # the other head is stage 2's
        millions -= sum(p.numel() for p in tracker.head["stage2"].parameters()) / 1e6
    # Of the trackers and networks as released (notebooks 03 and 09).
    known = {"vipt": 93.4, "tbsi": 202, "tbsi_gmmt_uvit": 273, "tbsi_gmmt_unet": 1161}
    if row in known:
        assert millions == pytest.approx(known[row], rel=0.003)
    if config.mode == "stage2":
        side = config.tracker.args["search"]
        with torch.device("meta"):
            z = torch.zeros(1, 4, *2 * [config.tracker.args["template"]])
            x = torch.zeros(1, 4, side, side)
            tracker.eval()
            template = tracker.encode_template(z, "stage2")
            f_1, _, fused = tracker.streams(template, x)
        assert f_1.shape == fused.shape
        assert f_1.shape[2] == {"siamese": 31}.get(kind_of(row), 16)
        if config.generator.variant == "CGAN":
            logits = tracker.fusion.discriminator.layers(torch.cat([fused, f_1, f_1], 1))
            assert logits.shape == (1, 1, 1, 1)  # on "meta" it knows no autocast


def test_images_and_boxes_are_the_released_ones():
    for kind in ("vipt", "tbsi"):
        args = loaded(kind).tracker.args
        told = {name: args[name] for name in RELEASED_INPUT[kind]}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()}
        wanted = RELEASED_INPUT[kind].items()
        assert plain == {name: list(v) if isinstance(v, tuple) else v for name, v in wanted}
        data = loaded(kind).data
        assert (data.interval, data.negative) == (200, 0)
        assert (data.template_shift, data.template_scale) == (0, 0)
        assert (data.search_shift, data.search_scale) == (3, 0.25)
    config = loaded("siamese")
    assert config.reading == OFFICIAL_READING
    assert config.tracker.args["whole_pixels"] == "siamban"
    data = config.data
    assert (data.interval, data.negative) == (100, 0.2)
    assert (data.template_shift, data.template_scale) == (4, 0.05)
    assert (data.search_shift, data.search_scale) == (64, 0.18)


def test_what_the_released_code_adds_to_the_plans():
    """tracking_ops.md, its facts on plans; and what differs between rows of one tracker."""
    first = loaded("siamese").plans
    for name in ("rgb", "tir"):
        plan = first[f"1.1 {name}"]
        assert plan.rate_share == {"backbone": 0.1}
        layers = ("conv1", "bn1", "layer1")
        later = {f"backbone.{name}.{layer}": 20 for layer in layers} | {f"backbone.{name}": 10}
        assert plan.frozen_until == later
    assert first["1.2"].rate_share == first["1.2"].frozen_until == {}
    tracker = loaded("siamese").tracker.args
    assert (tracker["mean"], tracker["std"], tracker["bgr"]) == (0, 1, True)
    assert loaded("vipt").plans["1.2"].eliminate == (4, 20)
    assert loaded("vipt").plans["1.2"].drop_after / 100 == 48 / 60
    clips = {"siamese": 10.0, "vipt": 0.1, "tbsi": float("inf")}
    starts = {"siamese": "resnet50", "vipt": "ostrack", "tbsi": "tbsi"}
    for row in ROWS:
        config, kind = loaded(row), kind_of(row)
        assert config.start.kind == starts[kind]
        for stage, plan in config.plans.items():
            assert plan.loss == "released"
            assert plan.clip == clips[kind]
            if stage == "2":
                assert plan.lam == 5
                assert plan.rate_share == plan.frozen_until == {}
        if config.generator is None:
            continue
        _, variant, network = row.split("_")
        generator = config.generator
        assert generator.variant == {"gmmt": "DM", "cgan": "CGAN", "raw": "RAW"}[variant]
        assert generator.network.kind == network
        assert generator.network.args["n_blocks"] == {"unet": 9, "uvit": 1}[network]
        if variant == "gmmt":
            told = (generator.target, generator.weighting, generator.track_t, generator.time)
            assert told == ("x_0", "released", "random", "level")


# --- from training to a score ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def lasher(tmp_path_factory):
    return make_tree("lasher", tmp_path_factory.mktemp("lasher"))


@pytest.fixture(autouse=True)
def _own_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("GMMT_RUNS", str(tmp_path / "runs"))


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_tracks_and_scores(row, lasher, tmp_path):
    changes = ["--set", f"data.root={lasher}", "--set", "data.part=true"]
    said = command("train", "--config", PAPER / f"{row}.yaml", "--profile", "smoke", *changes)
    assert f"{row} on LasHeR: 2 sequences, 90 frames" in said
    folder = Path(re.search(r"results: (.*)", said)[1])
    assert {path.name for path in folder.glob("*.txt")} == {
        *("lowerfoamboard.txt", "whitecarturnleft.txt")
    }
    scored = command("score", folder, "--benchmark", "lasher", "--root", lasher, "--part")
    numbers = re.search(r"ALL .*", said)[0].split()
    assert re.search(r"ALL .*", scored)[0].split() == numbers
    # The same command again has nothing left to do, and says the same.
    stamps = {path: path.stat().st_mtime_ns for path in folder.parent.parent.rglob("*.txt")}
    again = command("train", "--config", PAPER / f"{row}.yaml", "--profile", "smoke", *changes)
    assert re.search(r"ALL .*", again)[0].split() == numbers
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
