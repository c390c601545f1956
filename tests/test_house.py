"""The house: which room a module is in, that arrows point down, and that rooms stay small."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gmmt import files, provenance

ROOMS = {
    "ground": "__init__ errors files provenance",
    "method": "schedule draws fusion networks.*",
    "configuration": "rates config config_file",
    "data": "data.*",
    "scores": "protocol metrics curves sanity results",
    "trackers": "trackers.*",
    "running": "compute checkpoint build training experiment recording tracking predictions "
    "on_benchmark",
    "study": "study.*",
    "doors": "notebook plot score_figures cli cli_options cli_score cli_track cli_benchmark",
}
"""From the ground up: a module imports from its own room and from those below it alone."""
METHOD_SEES = ("ground", "method")
"""The method knows tensors only."""
SCORES_SEE = ("ground", "data", "scores")
"""Scores know boxes, where they are from, and nothing of what made them."""


def modules() -> list[str]:
    """Returns the package's modules, without its name."""
    found = []
    for path in sorted(files.PACKAGE.rglob("*.py")):
        name = path.relative_to(files.PACKAGE).with_suffix("").as_posix().replace("/", ".")
        if name == "__init__" or not name.endswith("__init__"):
            found.append(name)
    return found


def room_of(module: str) -> str:
    for room, members in ROOMS.items():
        for member in members.split():
            if module == member or (member.endswith(".*") and module.startswith(member[:-1])):
                return room
    raise AssertionError(f"{module} has no room: put it into ROOMS, and say what it may see")


def imports(module: str) -> set[str]:
    """Returns what a module imports of the package, packages' own empty files left out."""
    path = files.PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    found = {name.partition(".")[2] for name in provenance.imports_of(path)}
    return {
        name for name in found if name and not (files.PACKAGE / name.replace(".", "/")).is_dir()
    }


def test_every_room_has_its_modules():
    inhabited = {room_of(module) for module in modules()}
    assert inhabited == set(ROOMS)


@pytest.mark.parametrize("module", modules())
def test_arrows_point_down(module):
    order, own = list(ROOMS), room_of(module)
    if module == "__init__":
        return  # gmmt.load_official is looked up there when it is asked for
    for other in imports(module):
        room = room_of(other)
        assert order.index(room) <= order.index(own), f"{module} ({own}) sees {other} ({room})"
        if own == "method":
            assert room in METHOD_SEES, f"{module} sees {other}"
        if own == "scores":
            assert room in SCORES_SEE, f"{module} sees {other}"


def test_there_is_no_circle():
    arrows = {module: imports(module) for module in modules() if module != "__init__"}
    done: list[str] = []
    while len(done) < len(arrows):
        free = [m for m, seen in arrows.items() if m not in done and seen <= {*done, m}]
        assert free, f"a circle among {sorted(set(arrows) - set(done))}"
        done += free


def test_a_circle_and_an_arrow_up_would_be_seen(monkeypatch):
    def drawn(module):
        return {"schedule": {"draws"}, "draws": {"schedule"}}.get(module, set())

    monkeypatch.setattr(sys.modules[__name__], "imports", drawn)
    with pytest.raises(AssertionError, match="a circle among"):
        test_there_is_no_circle()
    monkeypatch.setattr(sys.modules[__name__], "imports", lambda _: {"study.claims"})
    with pytest.raises(AssertionError, match=r"tracking \(running\) sees study\.claims"):
        test_arrows_point_down("tracking")


def test_nothing_that_is_read_or_installed_needs_the_workflow():
    sources = [*files.PACKAGE.rglob("*.py"), *(files.ROOT / "notebooks" / "src").glob("*.py")]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in named if n.split(".")[0] in ("workflow", "tests")], path


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_files_are_short_and_lines_narrow():
    folders = [files.ROOT / name for name in ("gmmt", "workflow", "benchmarks", "tests")]
    paths = [p for folder in folders for p in folder.rglob("*.py")]
    paths += [files.ROOT / "workflow" / "Snakefile", *(files.ROOT / "workflow").glob("*.smk")]
    assert len(paths) > 90
    wide = [f"{p}, line {i}" for p in paths for i, t in enumerate(lines(p), 1) if len(t) > 100]
    assert wide == []
    package = {p: len(lines(p)) for p in paths if p.is_relative_to(files.PACKAGE)}
    assert [p for p, n in package.items() if n > 450] == []
    # 10,000 until the real benchmarks came: readers, the loader, the released trackers' training.
    assert sum(package.values()) <= 13000


# --- installed, without a checkout ----------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the built wheel was unpacked, as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=files.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_wheel_holds_what_the_package_reads(installed):
    assert {p.name for p in installed.iterdir() if "." not in p.name} == {"gmmt"}
    for folder, ours in (("configs/miniature", "configs/miniature"), ("data_manifests",) * 2):
        theirs = {p.name for p in (installed / "gmmt" / folder).iterdir()}
        assert {p.name for p in (files.ROOT / ours).iterdir()} == theirs
    stored = installed / "gmmt" / "stored_results"
    assert (stored / "miniature" / "cpu-choices.csv").is_file()


RUN = """
import sys, papermill, jupytext
import gmmt
assert gmmt.__file__.startswith(sys.argv[1]), gmmt.__file__
for source in sys.argv[2:]:
    papermill.execute_notebook(jupytext.read(source), "out.ipynb", {"profile": "smoke"},
                               progress_bar=False, kernel_name="python3")
print("all ran")
"""


@pytest.mark.slow
def test_an_installed_wheel_runs_notebooks_in_an_empty_folder(installed, tmp_path, monkeypatch):
    for name in ("GMMT_MIRROR", "GMMT_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("GMMT_DATA", str(tmp_path / "data"))
    sources = [
        str(files.ROOT / "notebooks" / "src" / f"{name}.py")
        for name in ("00_map", "08_table_2", "11_raw_results")
    ]
    command = [sys.executable, "-c", RUN, str(installed), *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert "all ran" in done.stdout, done.stderr[-3000:]
