"""Where files are, and how they are written: the few paths that everything else asks for."""

import contextlib
import json
import os
import uuid
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# The checkout that this package is run from, or None if it was installed without one.
ROOT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def resource(name: str) -> Path:
    """Returns the path of a small file that ships inside the package (gmmt/resources/)."""
    return PACKAGE / "resources" / name


def manifest_dir() -> Path:
    """Returns the folder of the data manifests: the checkout's, else the installed package's
    copy.
    """
    return ROOT / "data_manifests" if ROOT else PACKAGE / "data_manifests"


def stored_results_dir() -> Path:
    """Returns the folder of stored results (notebooks/results/ in the checkout)."""
    return ROOT / "notebooks" / "results" if ROOT else PACKAGE / "stored_results"


def config_dir() -> Path:
    """Returns the folder of configurations: the checkout's, else the installed package's copy."""
    return ROOT / "configs" if ROOT else PACKAGE / "configs"


def data_dir() -> Path:
    """Returns the folder that fetched data goes to: $GMMT_DATA, else data/ in the checkout, else
    the user's cache.
    """
    if os.environ.get("GMMT_DATA"):
        return Path(os.environ["GMMT_DATA"]).expanduser()
    if ROOT:
        return ROOT / "data"
    import pooch

    return Path(pooch.os_cache("gmmt"))


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "w"):
    """Yields an open file that becomes `path` only if the block ends without an error, so that no
    half-written file looks whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict | None:
    """Returns what a JSON file holds, or None if it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: dict, indent: int | None = 2) -> None:
    """Writes a JSON file in one step."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
