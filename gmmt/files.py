"""Where files are, and how they are written: the few paths that everything else asks for."""

import contextlib
import errno
import json
import os
import uuid
from pathlib import Path

from gmmt.errors import GmmtError, SettingError

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


def runs_dir() -> Path:
    """Returns the folder of all runs: $GMMT_RUNS, else runs/ in the checkout or, without one,
    here.
    """
    return (ROOT or Path.cwd()) / Path(os.environ.get("GMMT_RUNS") or "runs").expanduser()


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "w"):
    """Yields an open file that becomes `path` only if the block ends without an error, so that no
    half-written file looks whole.

    SettingError: it cannot be written (no such place, not allowed, a full disk).
    """
    path = Path(os.path.realpath(path))  # the file that a link means, not the link
    with _written_beside(path) as temporary:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def check_writable(path: Path | str, advice: str = "name another place") -> None:
    """Makes sure that a file `path` can be written, before the work that it is to hold: a file
    beside it is written and removed. Folders around it that are missing are made.

    SettingError: `path` is a folder or cannot be written; it ends with the `advice`, which names
    the option for another place.
    """
    path = Path(os.path.realpath(path))
    with _written_beside(path, advice) as probe, open(probe, "wb") as file:
        file.write(bytes(4096))  # a full disk lets files be made, but not filled
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _written_beside(path: Path, advice: str = "name another place"):
    """Yields the name of a file beside `path`, which is gone afterwards; an OSError becomes one
    SettingError about `path`.
    """
    temporary = None
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise OSError(errno.EISDIR, f"it is {what}; expected the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.name if len(os.fsencode(path.name)) < 200 else "long"  # 255 is the most
        temporary = path.with_name(f".{name}.{uuid.uuid4().hex}")
        yield temporary
    except GmmtError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        if error.filename is not None and str(error.filename) != str(temporary):
            why += f": {error.filename}"
        old = "; the file that is there is unchanged" if os.path.isfile(path) else ""
        room = "make room, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise SettingError(f"{path}: cannot be written ({why}){old}; {room}{advice}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


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
