"""Where a result comes from: the commit, the code, the versions of what computed it, the time."""

import ast
import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from gmmt import __version__, files


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on, without importing anything."""
    packages = ("torch", "numpy", "pandas", "matplotlib")
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"gmmt": __version__, "python": platform.python_version(), **installed}


def git_commit() -> str | None:
    """Returns the checkout's commit, with "-dirty" where files differ from it, or None without git
    or a checkout.
    """
    if files.ROOT is None:
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
    command.append("--exclude=*")
    options = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        return subprocess.run(command, cwd=files.ROOT, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Returns the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def hash_of(content) -> int:
    """Returns a 62-bit hash of anything that JSON can hold, the same on every machine."""
    text = json.dumps(content, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


def short_hash(content) -> str:
    """Returns a hash of anything that JSON can hold as twelve letters and digits, for file
    names.
    """
    return f"{hash_of(content):016x}"[:12]


# --- the code that a result depends on ------------------------------------------------------------


def code_hash(*modules: str) -> str:
    """Returns a hash of the named modules of this package and of all that they import from it.

    What is hashed is the syntax tree: comments, docstrings and layout do not count, and Python 3.11
    to 3.13 give the same. A module that is found by its name at run time only must be named.
    """
    found = sorted(modules_reached(modules))
    return short_hash([[name, module_hash(_file_of(name))] for name in found])


def modules_reached(modules: Iterable[str]) -> set[str]:
    """Returns the names of the modules of this package that the named ones import, directly or not,
    in functions too; the named ones are among them.
    """
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(imports_of(_file_of(name)))
    return reached


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Returns the modules of this package that a file imports, and the packages around them."""
    package = files.PACKAGE.name
    named: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            named += [f"{node.module}.{alias.name}" for alias in node.names]
    found: set[str] = set()
    for name in named:
        parts = name.split(".")
        if parts[0] != package:
            continue
        # `from gmmt.a import b` names the module gmmt.a.b or something in gmmt.a; whatever of
        # "gmmt", "gmmt.a", "gmmt.a.b" is a file is run by the import.
        starts = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        found.update(start for start in starts if _file_of(start).is_file())
    return tuple(sorted(found))


def _file_of(module: str) -> Path:
    """Returns the file of a module of this package."""
    folder = files.PACKAGE.joinpath(*module.split(".")[1:])
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


@cache
def module_hash(path: Path) -> str:
    """Returns a hash of a file's syntax tree without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return hashlib.sha256("\n".join(_written_out(tree)).encode()).hexdigest()


def _written_out(node) -> Iterator[str]:
    """Yields a syntax tree piece by piece, in a form that does not depend on Python's version:
    ast.dump's own differs between them (new fields, and empty ones shown or not).
    """
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for field in node._fields:
            value = getattr(node, field, None)
            if field == "body" and isinstance(value, list):
                value = [part for part in value if not _is_text(part)]
            if field == "values" and isinstance(node, ast.JoinedStr):
                value = _joined(value)
            if field in ("ctx", "kind", "type_comment") or value is None or value == []:
                continue
            yield f".{field}"
            yield from _written_out(value)
        yield "."
    elif isinstance(node, list):
        for part in node:
            yield from _written_out(part)
    else:
        yield repr(node)


def _is_text(statement: ast.AST) -> bool:
    """Whether a statement is a docstring, or a text that stands alone as one."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement.value.value, str)


def _joined(parts: list[ast.AST]) -> list[ast.AST]:
    """Returns the parts of an f-string with neighbouring texts made one, and none of them empty."""
    joined: list[ast.AST] = []
    for part in parts:
        is_text = isinstance(part, ast.Constant)
        if is_text and part.value == "":
            continue
        if is_text and joined and isinstance(joined[-1], ast.Constant):
            joined[-1] = ast.Constant(joined[-1].value + part.value)
        else:
            joined.append(part)
    return joined
