"""The comparison of notebooks with their stored results (the second half of `make test`) sees a
single changed digit.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_lint as lint
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SMALLEST = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"), key=lambda path: path.stat().st_size)[:1]
"""The example is tried first; then one notebook of the project, the one with the least to show."""


def compare(path: Path) -> tuple[int, str]:
    """Returns pytest's exit status and output for one notebook, run as `make test` runs it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=300",
        "-p",
        "no:cacheprovider",
    ]
    environment = os.environ | {
        "GMMT_PROFILE": "smoke",
        "GMMT_RUNS": str(path.parent / "runs"),
        "GMMT_THREADS": "2",
    }
    done = subprocess.run(
        [*command, "--color=no", path.name],
        cwd=path.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=["example", *(path.stem for path in SMALLEST)])
def notebook(request, tmp_path) -> Path:
    """A copy of a notebook."""
    if request.param == "example":
        return lint.write_example(tmp_path)[0]
    copy = tmp_path / f"{request.param}.ipynb"
    copy.write_bytes((NOTEBOOKS / copy.name).read_bytes())
    return copy


@pytest.mark.slow
def test_a_changed_digit_is_seen(notebook):
    status, output = compare(notebook)
    assert status == 0, output
    assert "failed" not in output

    nb = nbformat.read(notebook, as_version=4)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    number, stream = next(
        (number, stored)
        for number, cell in enumerate(code)
        for stored in cell.outputs
        if "nbval-check-output" in lint.tags(cell)
        and stored.output_type == "stream"
        and re.search(r"\d", stored.text)
    )
    stream.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), stream.text, count=1)
    nbformat.write(nb, notebook)

    status, output = compare(notebook)
    assert status == 1, output
    assert re.search(rf"FAILED .*::Cell {number}\b", output), output
    assert re.search(r"\b1 failed", output), output
