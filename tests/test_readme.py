"""What the README says of the project is true of the project."""

import re

from gmmt import files
from gmmt.study import claims
from workflow import picture

README = (files.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_verdicts_are_the_ledgers():
    n = claims.tally(claims.ledger())
    line = (
        f"{sum(n.values())} claims: {n['recomputed']} recomputed, {n['holds']} hold, "
        f"{n['does not hold']} do not hold, "
        f"{n['undecided']} undecided, {n['not attempted']} not attempted."
    )
    assert line in README, f"README.md should say: {line}"


def test_the_picture_of_the_claims_is_the_notebooks():
    assert picture.PICTURE.read_bytes() == picture.figure(), "run `make notebooks NOTEBOOKS=00_map`"


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    assert [t for t in targets if not t.startswith("http") and not (files.ROOT / t).exists()] == []


def test_named_commands_exist():
    makefile = (files.ROOT / "Makefile").read_text(encoding="utf-8")
    for goal in set(re.findall(r"(?m)(?:^    |`)make ([a-z]+)", README)):
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE), f"make {goal}"


def test_every_notebook_is_listed():
    for path in (files.ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"notebooks/{path.name}" in README
