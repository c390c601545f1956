"""What the tests share: the folder of reference material beside the checkout, and a fair share of
the cores.
"""

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material, ../shared or $GMMT_SHARED; what needs it is skipped where
    it is not.
    """
    folder = Path(os.environ.get("GMMT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(
            f"no reference material: {folder.name}/ is not beside the checkout, and "
            "GMMT_SHARED does not name it"
        )
    return folder


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    """This worker's share of the cores for torch, where a test has imported it: what make test
    says in OMP_NUM_THREADS, else two.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 2))


@pytest.fixture(scope="session", autouse=True)
def _own_settings():
    """No test depends on the settings of the shell that it is run from."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GMMT_BATCH", "GMMT_PROFILE", "GMMT_RUNS", "GMMT_THREADS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def raw_results(shared, tmp_path_factory, monkeypatch):
    """A function archive -> folder of raw result files, taken from the reference material as from
    any mirror.
    """
    from gmmt.data import manifest

    monkeypatch.setenv("GMMT_DATA", str(tmp_path_factory.getbasetemp() / "raw_results"))
    monkeypatch.setenv("GMMT_MIRROR", str(shared / "data"))
    return lambda archive: manifest.fetch(archive, progress=False)


@pytest.fixture
def no_downloads(tmp_path, monkeypatch):
    """A machine that has no data and can get none: an empty mirror in the network's place."""
    (tmp_path / "empty_mirror").mkdir()
    monkeypatch.setenv("GMMT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("GMMT_MIRROR", str(tmp_path / "empty_mirror"))


def pytest_addoption(parser):
    parser.addoption(
        "--reference", default=None, help="folder of reference outputs (default: tests/reference)"
    )
