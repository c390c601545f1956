"""Where a result comes from: the commit, the versions of what computed it, the time."""

import datetime
import importlib.metadata
import platform
import subprocess

from gmmt import __version__, files


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, without importing anything."""
    packages = ("torch", "numpy", "pandas", "matplotlib")
    return {"gmmt": __version__, "python": platform.python_version()} | {
        p: importlib.metadata.version(p) for p in packages
    }


def git_commit() -> str | None:
    """Returns the checkout's commit, with "-dirty" where files differ from it, or None without git
    or a checkout.
    """
    if files.ROOT is None:
        return None
    command = [
        "git",
        "--no-optional-locks",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, cwd=files.ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Returns the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
