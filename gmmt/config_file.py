"""Configurations as YAML files.

    config = load("configs/miniature/dm.yaml", profile="cpu")

A file may name another one as its `base:`, whose fields it changes, and a `foundation:`, a row from
whose weights this one starts. Under `profiles:` stand the fields that a profile changes, under
`choices:` the folder of stored results in which plans were chosen on validation: last comes what
was chosen there for this very profile.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gmmt import files
from gmmt.config import FIELDS, NOTHING, Config, resolve
from gmmt.errors import SettingError, did_you_mean

STAGES = ("1.1 rgb", "1.1 tir", "1.2", "2")
PROFILES = ("smoke", "cpu", "gpu", "paper")
"""From the smallest to the largest; `auto` stands for one of them."""


def load(path: Path | str, profile: str = "auto", changes: Mapping[str, Any] = NOTHING) -> Config:
    """Reads a configuration with all its bases, for a profile; `changes` come last.

    `changes` is a tree of fields as in a file: {"plans": {"2": {"lam": 3.0}}}.
    SettingError: there is no such file, or it does not say what it should; the message names the
    file, the field, and what was expected. FileNotFoundError: there is no such file.
    """
    path, profile = Path(path), resolve_profile(profile)
    tree = read_tree(path)
    ours = tree.pop("profiles", {}).get(profile)
    if ours is None:
        raise SettingError(
            f"{path}: no fields for the profile {profile!r}; expected them under "
            f"`profiles:`, as for the others"
        )
    tree = merge(tree, ours)
    chosen = tree.pop("choices", None)
    if chosen is not None:
        tree = merge(tree, chosen_plans(tree, str(chosen), profile))
    foundation = tree.pop("foundation", None)
    tree = merge(tree, changes)
    config = _build(_only_stages(tree, path), path)
    if foundation is not None:
        theirs = {name: changes[name] for name in ("data", "compute") if name in changes}
        below = load(Path(path).parent / foundation, profile, theirs)
        config = replace(config, foundation=below)
    return resolve(config, str(path))


def read_tree(path: Path) -> dict[str, Any]:
    """Reads the fields of a YAML file on top of those of its base."""
    import yaml

    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.yaml"))
        close = did_you_mean(path.name, there)
        raise FileNotFoundError(
            f"{path}: there is no such configuration.{close} "
            f"There are: {', '.join(there) or 'none'}"
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: expected a YAML file: {error}") from None
    if not isinstance(tree, dict):
        raise SettingError(f"{path}: expected fields with values (name: ...), not {tree!r:.60}")
    base = tree.pop("base", None)
    if base is None:
        return tree
    return merge(read_tree(path.parent / base), tree)


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree of fields with those of `changes` in it; mappings are merged field by field,
    anything else is replaced.
    """
    merged = {str(name): value for name, value in tree.items()}  # YAML reads 1.2 as a number
    for name, value in changes.items():
        name, before = str(name), merged.get(str(name))
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(before, value) if both else value
    return merged


def chosen_plans(tree: Mapping[str, Any], folder: str, profile: str) -> dict[str, Any]:
    """Returns what was chosen on validation for the stages of a configuration under this profile,
    as a tree of fields; empty where nothing was chosen.
    """
    chosen = choices(folder, profile)
    plans = {}
    for stage in tree.get("stages", ()):
        if stage == tree["stages"][-1]:
            row = tree.get("choice_of", tree.get("name"))
        else:
            row = tree.get("names", {}).get(stage)
        if row in chosen:
            plans[stage] = chosen[row]
    return {"plans": plans}


def choices(folder: str, profile: str) -> dict[str, dict[str, float]]:
    """Returns the plan that each row keeps under a profile, {"lam": ..., "rate": ...}, from the
    stored choices in a folder; empty where nothing was chosen for that profile.
    """
    import csv

    path = choices_file(folder, profile)
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in csv.DictReader(lines) if row["chosen"] == "True"]
    return {row["row"]: {k: float(row[k]) for k in ("lam", "rate") if row[k]} for row in kept}


def choices_file(folder: str, profile: str) -> Path:
    """Returns where the choices for a profile are stored."""
    return files.stored_results_dir() / folder / f"{profile}-choices.csv"


def _only_stages(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the fields with the plans and names of those stages alone that are trained."""
    tree = dict(tree)
    tree.pop("choice_of", None)
    stages = tree.get("stages") or []
    for stage in merge({}, tree.get("plans") or {}):
        if stage not in STAGES:
            raise SettingError(
                f"{path}: plans: there is no stage {stage!r}; expected some of "
                f"{', '.join(STAGES)} (--set plans/1.2/epochs=7: slashes, as the name has a dot)"
            )
    for name in ("plans", "names"):
        own = tree.get(name) or {}
        missing = [stage for stage in stages if stage not in own]
        if name == "plans" and missing:
            raise SettingError(
                f"{path}: stage {missing[0]!r} has no plan; expected plans: "
                f"{{{missing[0]!r}: {{steps: ...}}}}"
            )
        tree[name] = {stage: own.get(stage, stage) for stage in stages}
    if stages and tree.get("name"):
        tree["names"][stages[-1]] = tree["name"]
    return tree


def _build(tree: Mapping[str, Any], path: Path) -> Config:
    """Returns the configuration that fields read from YAML make up."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Config).validate_python(tree)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where = ", ".join(map(str, fault["loc"]))
            lines.append(f"{where}: {fault['msg']}, not {fault['input']!r:.60}")
            if fault["type"] == "unexpected_keyword_argument":
                known = [f.name for kind in FIELDS for f in fields(kind)]
                lines[-1] = f"{where}: no such field.{did_you_mean(fault['loc'][-1], known)}"
        raise SettingError(f"{path} does not fit; correct\n  " + "\n  ".join(lines)) from None


def changes_from(words: Sequence[str]) -> dict[str, Any]:
    """Returns the tree of fields that words like "plans.2.lam=3" name; values are read as YAML.

    A field whose name has a dot is written with a slash: plans/1.2/steps=5.
    """
    import yaml

    tree: dict[str, Any] = {}
    for word in words:
        path, equals, text = word.partition("=")
        names = path.split("/") if "/" in path else path.split(".")
        if not equals or not all(names):
            raise SettingError(f"--set wants a field and a value (plans.2.lam=3), not {word!r}")
        is_path = names[-1] in ("root", "file")  # which is no YAML: it may hold any sign
        branch: Any = text if is_path else yaml.safe_load(text)
        for name in reversed(names):
            branch = {name: branch}
        tree = merge(tree, branch)
    return tree


def resolve_profile(profile: str = "auto") -> str:
    """Returns one of PROFILES: the given one, or for `auto` $GMMT_PROFILE, else gpu where CUDA is
    available, else cpu. A profile for GPUs warns where there is none.
    """
    origin = ""
    if profile == "auto" and os.environ.get("GMMT_PROFILE"):
        profile = os.environ["GMMT_PROFILE"]
        origin = " (from the environment variable GMMT_PROFILE)"
    if profile == "auto":
        import torch  # the slow way, and the only one that knows

        return "gpu" if torch.cuda.is_available() else "cpu"
    if profile not in PROFILES:
        known = f"Profiles are {', '.join(PROFILES)} and auto."
        close = did_you_mean(profile, [*PROFILES, "auto"])
        raise SettingError(f"There is no profile {profile!r}{origin}. {known}{close}")
    if profile in ("gpu", "paper"):
        import torch

        if not torch.cuda.is_available():
            warnings.warn(
                f"profile {profile}{origin} without CUDA: what is trained on this machine is "
                "trained on its CPU, which can take days; the profile cpu is made for it",
                stacklevel=1,  # from one place, it is shown once
            )
    return profile
