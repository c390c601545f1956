"""Configurations: what a file may say, what the tree holds, and what makes a key another one."""

import dataclasses
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from gmmt import config_file, experiment, files, predictions, provenance
from gmmt.build import make_generator, make_tracker
from gmmt.cli import app
from gmmt.config import Config, Data, Part, class_of, plain, show
from gmmt.data import loader, synthetic
from gmmt.data.sequence import Sequence
from gmmt.errors import SettingError
from gmmt.study import miniature
from gmmt.study.tables import ALL_ROWS

CONFIGS = files.ROOT / "configs" / "miniature"

# --- the tree -------------------------------------------------------------------------------------


def leaves(value, path=()) -> Iterator[tuple[tuple, object]]:
    """Yields every leaf of a configuration with the way to it."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from leaves(part, (*path, name))
    else:
        yield path, value


def changed(value, path, new):
    """Returns a configuration with another leaf."""
    if not path:
        return new
    name, rest = path[0], path[1:]
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **{name: changed(getattr(value, name), rest, new)})
    return {**value, name: changed(value[name], rest, new)}


OTHER_KIND = {"siamese": "ostrack", "ostrack": "vipt", "vipt": "tbsi", "tbsi": "vipt"}
OTHER_KIND |= {"unet": "uvit", "uvit": "unet", "discriminator": "unet"}


def another(value, path):
    """Returns another value of the same type as a leaf."""
    if path[-1] == "kind" and value in OTHER_KIND:
        return OTHER_KIND[value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if value == "mini-rgbt":
        return "roadscene-motion"
    if isinstance(value, str):
        return value + "x"
    if value is None:
        return 7
    if isinstance(value, Mapping):
        return {"1": 0.7}
    return [*value, 1]


WORDS = ("name", "names", "meaning")
"""What a row is called, and told of: no result depends on it."""
VIDEOS = (("data", "val"), ("data", "test"), ("data", "root"), ("data", "workers"))
VIDEOS += (("data", "part"),)
"""How many videos a row is measured on, and where they are: boxes have a hash of the videos in
their key. Who reads them is no matter.
"""
ORDER = ("stages",)
"""The keys of `plans`, in the order of training."""


@pytest.fixture(scope="module")
def video():
    frame = np.zeros((4, 8, 8), np.uint8)
    return Sequence("one", np.ones((3, 4)), lambda i: frame, size=(8, 8))


def keys(config: Config, video) -> tuple:
    """Returns the keys of all stages' weights, and of the boxes."""
    whats = experiment.what_decides(config, seed=0)
    stages = {stage: provenance.short_hash(what) for stage, what in whats.items()}
    boxes = predictions.what_decides(config, stages, [video])
    return list(stages.values())[-1], provenance.short_hash(boxes)


@pytest.mark.parametrize("row", ["HEAD", "CGAN", "TBSI-DM-uvit"])
def test_every_value_is_part_of_a_key(row, video):
    config = miniature.config(row, "smoke")
    weights, boxes = keys(config, video)
    seen = 0
    for path, value in leaves(config):
        if value is None and path[-1] in ("foundation", "generator", "start"):
            continue  # there is none
        if value is None and path[0] == "generator" and len(path) == 2:
            continue  # another variant's option
        own = path[1:] if path[0] == "foundation" else path
        if own[0] in WORDS or own[0] in ORDER or own in VIDEOS:
            continue
        if own != path and own[0] in ("reading", "mode", "foundation", "generator"):
            continue  # a foundation only trains
        new_weights, new_boxes = keys(changed(config, path, another(value, path)), video)
        assert new_boxes != boxes, path
        if path[0] not in ("reading", "mode"):
            assert new_weights != weights, path
        seen += 1
    assert seen > 20
    for name in WORDS:
        told = getattr(config, name)
        other = dict.fromkeys(told, "x") if isinstance(told, Mapping) else "x"
        assert keys(dataclasses.replace(config, **{name: other}), video) == (weights, boxes)


@pytest.mark.parametrize("row", ["Base", "CGAN", "DM", "DM-uvit", "OSTrack", "ViPT", "TBSI"])
def test_every_argument_of_every_constructor_is_in_the_tree(row):
    config = miniature.config(row, "smoke")
    parts = [config.tracker]
    if config.generator is not None:
        parts += [p for p in (config.generator.network, config.generator.discriminator) if p]
    for part in parts:
        signature = inspect.signature(class_of(part)).parameters
        assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in signature.values())
        missing = set(signature) - set(part.args)
        assert missing <= {"channels"}
        assert missing == set() or part is not config.tracker


def test_what_is_shown_is_all_that_is_meant():
    for row in ("DM", "TBSI-DM"):
        config = miniature.config(row, "cpu")
        assert yaml.safe_load(show(config)) == plain(config)


def test_the_command_line_shows_it_with_what_was_set():
    arguments = ["train", "--config", str(CONFIGS / "dm.yaml"), "--show", "--profile", "cpu"]
    told = CliRunner().invoke(app, arguments).output
    assert yaml.safe_load(told) == plain(miniature.config("DM", "cpu"))
    arguments += ["--set", "plans.2.lam=3", "--set", "data.source=roadscene-motion"]
    told = yaml.safe_load(CliRunner().invoke(app, arguments).output)
    assert (told["plans"]["2"]["lam"], told["data"]["source"]) == (3.0, "roadscene-motion")
    assert told["plans"]["2"]["rate"] == 0.002  # the choice
    bad = CliRunner().invoke(app, ["train", "--profile", "smoke"])
    assert "nothing to train: name a row" in str(bad.exception)


def test_the_videos_are_part_of_the_key_of_boxes(video):
    config = miniature.config("RGB", "smoke")
    one = predictions.what_decides(config, {}, [video])
    other = Sequence("one", video.boxes + 1, video.frame, size=(8, 8))
    assert predictions.what_decides(config, {}, [other]) != one
    assert predictions.what_decides(config, {}, [video], steps=2) != one
    assert predictions.what_decides(config, {}, [video], noise=1) != one


# --- files and code -------------------------------------------------------------------------------


def test_an_image_of_roadscene_is_part_of_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("GMMT_DATA", str(tmp_path))
    for folder, mode in zip(synthetic.ROADSCENE_FOLDERS, ("RGB", "L"), strict=True):
        (tmp_path / "roadscene" / folder).mkdir(parents=True)
        for k in range(3):
            image = Image.new(mode, (9, 9), k)
            image.save(tmp_path / "roadscene" / folder / f"{k}.jpg")
    real, drawn = Data(source="roadscene-motion"), Data()
    before = loader.fingerprint(real)
    assert loader.fingerprint(real) == before != loader.fingerprint(drawn)
    victim = tmp_path / "roadscene" / synthetic.ROADSCENE_FOLDERS[1] / "1.jpg"
    kept = victim.read_bytes()
    victim.unlink()
    without = loader.fingerprint(real)
    assert without != before
    victim.write_bytes(kept)
    assert loader.fingerprint(real) == before
    Image.new("L", (9, 9), 200).save(victim)
    assert loader.fingerprint(real) not in (before, without)
    assert loader.fingerprint(drawn) == loader.fingerprint(Data(train=9))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, whose files a test may change."""
    ignored = shutil.ignore_patterns("__pycache__", "resources")
    shutil.copytree(files.PACKAGE, tmp_path / "gmmt", ignore=ignored)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "gmmt")
    yield tmp_path / "gmmt"
    provenance.imports_of.cache_clear()
    provenance.module_hash.cache_clear()


ROOTS = ("gmmt.experiment", "gmmt.trackers.siamese", "gmmt.networks.unet")


def code() -> str:
    provenance.imports_of.cache_clear()
    provenance.module_hash.cache_clear()
    return provenance.code_hash(*ROOTS)


def test_code_of_every_file_that_training_imports_is_part_of_the_key(package):
    reached = provenance.modules_reached(ROOTS)
    names = "training checkpoint data.pairs data.crops data.synthetic data.benchmarks fusion"
    names += " schedule draws networks.norm trackers.base trackers.heads config compute build"
    assert {f"gmmt.{name}" for name in names.split()} <= reached
    assert not {"gmmt.tracking", "gmmt.metrics", "gmmt.study.claims", "gmmt.plot"} & reached
    before = code()
    for module in sorted(reached):
        path = provenance._file_of(module)
        text = path.read_text()
        path.write_text(text + "\nADDED = 1\n")
        assert code() != before, module
        path.write_text(text + "\n\n# Words.\n")
        assert code() == before, module
        path.write_text(text)
    other = package / "metrics.py"
    other.write_text(other.read_text() + "\nADDED = 1\n")
    assert code() == before


def test_tracking_is_part_of_the_key_of_boxes_and_not_of_weights(package, video):
    config = miniature.config("RGB", "smoke")
    before = keys(config, video)
    path = package / "tracking.py"
    path.write_text(path.read_text().replace("import numpy as np", "import numpy as np\nX = 1"))
    code()
    weights, boxes = keys(config, video)
    assert weights == before[0]
    assert boxes != before[1]


SOURCE = '''"""Words."""
import math


class A:
    """More."""

    x: int = 1

    def f(self, *names, key=None) -> str:
        """Words."""
        return f"a {self.x!r:>{key}} b" "c" + ", ".join(n for n in names if n) + str(math.pi)
'''


def test_words_and_layout_do_not_count_and_code_does(tmp_path):
    def hashed(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return provenance.module_hash(path)

    first = hashed(SOURCE)
    told = SOURCE.replace("Words", "Other words").replace("    x: int", "    # Why.\n    x: int")
    wrapped = told.replace("(self, *names, key=None)", "(\n        self, *names, key=None\n    )")
    assert hashed(wrapped) == first
    assert first[:16] == "3300615be128cdb8"
    for old, new in (
        ("= 1", "= 2"),
        ("a {", "b {"),
        (" if n", ""),
        ("!r", ""),
        ("key=None", "key=1"),
    ):
        assert old in SOURCE
        assert hashed(SOURCE.replace(old, new)) != first, old


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python_gives_the_same_hash(version):
    places = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"))
    found = next(map(str, places), shutil.which(f"python{version}"))
    command = "import sys; sys.path.insert(0, sys.argv[1]); from gmmt import provenance as p; "
    command += "print(sys.version_info[:2], p.code_hash(*sys.argv[2:]))"
    if found is None:
        pytest.skip(f"there is no python{version} here")
    script = [found, "-c", command, str(files.ROOT), *ROOTS, "gmmt.study.stored"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=files.ROOT)
    if done.returncode and "No module named" not in done.stderr:
        pytest.skip(f"python{version} does not start: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    ours = provenance.code_hash(*ROOTS, "gmmt.study.stored")
    major, minor = version.split(".")
    assert done.stdout.strip() == f"({major}, {minor}) {ours}"


# --- reading --------------------------------------------------------------------------------------


def test_every_row_has_a_file_and_every_file_is_a_row():
    rows = {path.stem for path in CONFIGS.glob("[!_]*.yaml")}
    assert rows == {name.lower() for name in ALL_ROWS}
    for name in ALL_ROWS:
        for profile in config_file.PROFILES:
            config = miniature.config(name, profile)
            assert config.name == name
            assert config.names[config.stages[-1]] == name
            assert config.meaning


def test_the_rows_are_those_of_the_stored_tables():
    """The plans under profile cpu, against numbers written down before there were files."""
    steps = {"1.1 rgb": 800, "1.1 tir": 800, "1.2": 1600, "2": 1600}
    for name in ("DM", "RAW", "HEAD", "CGAN"):
        config = miniature.config(name, "cpu")
        assert {stage: plan.steps for stage, plan in config.plans.items()} == steps
        assert {plan.batch for plan in config.plans.values()} == {16}
        assert config.plans["1.1 rgb"].rate == 0.002
        assert config.plans["1.2"].rate == 0.004  # chosen
    assert miniature.config("Base-long", "cpu").plans["1.2"].steps == 3200
    assert miniature.config("Base-long", "cpu").plans["1.2"].rate == 0.004
    assert miniature.config("OSTrack-long", "cpu").plans["1.1 rgb"].steps == 4800
    assert miniature.config("TBSI-long", "cpu").plans["1.2"].steps == 3200
    assert miniature.config("TBSI", "cpu").plans["1.2"].last == 0.1
    assert miniature.config("CGAN", "cpu").plans["2"].lam == 0.1
    assert miniature.config("TRK", "cpu").plans["2"].lam == 0
    assert miniature.config("HEAD", "cpu").plans["2"].lam == 0


def test_choices_belong_to_a_profile():
    for profile, rate in (("cpu", 0.004), ("smoke", 0.002), ("gpu", 0.002)):
        assert miniature.config("DM", profile).plans["1.2"].rate == rate
    assert config_file.choices("miniature", "gpu") == {}


def write(folder: Path, text: str) -> Path:
    path = folder / "row.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("naem: x", "naem: no such field. Did you mean name"),
        ("plans: {'2': {rate: fast}}", "plans, 2, rate: Input should be a valid number"),
        ("plans: {'2': {stepz: 3}}", "plans, 2, stepz: no such field. Did you mean steps"),
        ("plans: {'2': {optimizer: adam}}", "optimizer: Input should be 'adamw' or 'sgd'"),
        ("tracker: {args: {chanels: 3}}", "siamese has no 'chanels'.*channels"),
        ("tracker: {kind: siam}", "the list of parts has no 'siam'; expected some of siamese"),
        ("generator: {discriminator: {kind: unet}}", "DM has no discriminator; CGAN has"),
        ("reading: {windw: 1}", "reading has no 'windw'.*Did you mean window"),
        ("compute: {precision: fp8}", "precision: Input should be 'fp32', 'bf16' or 'fp16'"),
        ("stages: ['1.1 rgb', '3']", "stage '3' has no plan"),
        ("stages: ['1.2']", "mode stage2 needs stage 2"),
        ("- a list", "expected fields with values"),
        ("a: [", "expected a YAML file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, text, words):
    base = f"base: {CONFIGS / 'dm.yaml'}\n" if not text.startswith(("-", "a:")) else ""
    path = write(tmp_path, base + text)
    with pytest.raises(SettingError, match=words):
        config_file.load(path, "smoke")


def test_a_missing_file_or_profile_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"dmm\.yaml: there is no such.*Did you mean dm\.yaml"
    ):
        config_file.load(CONFIGS / "dmm.yaml", "smoke")
    path = write(tmp_path, "name: x")
    with pytest.raises(SettingError, match="no fields for the profile 'smoke'"):
        config_file.load(path, "smoke")
    path = write(tmp_path, f"base: {CONFIGS / '_common.yaml'}\nname: x")
    with pytest.raises(SettingError, match="mode: Field required"):
        config_file.load(path, "smoke")


def test_numbers_in_any_form_are_numbers(tmp_path):
    path = write(tmp_path, f"base: {CONFIGS / 'dm.yaml'}\nplans: {{'2': {{rate: 1e-3, steps: 5}}}}")
    plan = config_file.load(path, "cpu").plans["2"]
    assert (plan.rate, plan.steps) == (
        0.002,
        1600,
    )  # what the profile and the choice say comes last
    path.write_text(path.read_text().replace("plans:", "profiles: {cpu: {}}\nplans:"))
    changes = config_file.changes_from(["plans.2.rate=1e-3", "plans/1.2/steps=7"])
    plans = config_file.load(path, "cpu", changes).plans
    assert (plans["2"].rate, plans["1.2"].steps) == (0.001, 7)
    with pytest.raises(SettingError, match="--set wants a field and a value"):
        config_file.changes_from(["lam"])


def test_a_part_has_only_plain_values():
    with pytest.raises(SettingError, match="cannot hold"):
        plain(Part("unet", {"inner": object()}))


def test_no_environment_variable_changes_weights(tmp_path):
    """The same row in processes of their own, with and without variables that could matter."""
    loaded = []
    odd = {"ACCELERATE_MIXED_PRECISION": "bf16", "GMMT_THREADS": "2", "OMP_NUM_THREADS": "2"}
    odd |= {"OPENBLAS_CORETYPE": "Haswell", "ACCELERATE_USE_CPU": "true"}
    for extra in ({}, odd):
        folder = tmp_path / str(len(loaded))
        env = {k: v for k, v in os.environ.items() if k not in odd} | extra
        command = [sys.executable, "-m", "gmmt.cli", "train", "RGB", "--profile", "smoke"]
        command += ["--weights", str(folder)]
        subprocess.run(command, env=env, check=True, capture_output=True, cwd=files.ROOT)
        (path,) = folder.glob("RGB-*.safetensors")
        loaded.append((path.name, path.read_bytes()))
    assert loaded[0] == loaded[1]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("plans.2.rate=-1", "greater than 0"),
        ("plans.2.clip=0", "greater than 0"),
        ("generator.statistics=[0, 2]", "greater than 0"),
        ("data.samples=1", "an epoch of 1 pairs .* is less than a batch of 2"),
        ("tracker.args.heads=5", "heads = 5 must divide dim = 64"),
        ("tracker.args.depth=two", "tbsi_gmmt_uvit: its networks cannot be made"),
        ("generator.target=foo", "its networks cannot be made: target must be one of"),
        ("plans.2.steps=3", "expected steps, or epochs, one of both"),
        ("plans.1.2.epochs=7", "there is no stage '1'; expected some of"),
        ("plans.3.lam=3", "there is no stage '3'"),
        ("start.kind=foo", "start, kind"),
    ],
)
def test_values_that_cannot_be_are_named_before_anything_is_trained(word, told):
    path = CONFIGS.parent / "paper" / "tbsi_gmmt_uvit.yaml"

    def made():
        config = config_file.load(path, "smoke", config_file.changes_from([word]))
        make_generator(config, make_tracker(config).channels)

    with pytest.raises(SettingError, match=told):
        made()


def test_numbers_as_names_of_stages_are_read_as_text(tmp_path):
    """YAML reads 2: and 1.2: as numbers."""
    base = CONFIGS.parent / "paper" / "vipt_gmmt_uvit.yaml"
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {base}\nplans: {{2: {{lam: 3}}, 1.2: {{rate: 0.5}}}}\n")
    plans = config_file.load(path, "smoke").plans
    assert (plans["2"].lam, plans["1.2"].rate) == (3, 0.5)


def test_paths_are_no_yaml():
    tree = config_file.changes_from(["data.root=/data/LasHeR #2", "start.file=0755", "seed=0755"])
    assert tree["data"]["root"] == "/data/LasHeR #2"
    assert tree["start"]["file"] == "0755"
    assert tree["seed"] == 493
