"""Every notebook keeps the rules of tests/notebook_lint.py, and every rule catches the notebook
that breaks it.
"""

import copy
from pathlib import Path

import jupytext
import notebook_lint as lint
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted({path.stem for path in [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("src/*.py")]})


@pytest.mark.parametrize("name", NAMES)
def test_notebook_keeps_the_rules(name):
    found = lint.check_pair(NOTEBOOKS / f"{name}.ipynb", NOTEBOOKS / "src" / f"{name}.py")
    assert not found, "\n" + "\n".join(found)


def test_example_keeps_the_rules(tmp_path):
    assert lint.check_pair(*lint.write_example(tmp_path)) == []


# -- Each rule, with the notebook that breaks it ---------------------------------------------------
# The example's cells: 0 title, 1 colab, 2 parameters, 3 set-up, 4 symbols, 5 figure, 6 compared, 7
# headline, 8 exercise, 9 stub, 10 solution, 11 assert, 12 end.


def source(cell, text):
    """Returns an edit that replaces a cell's source."""
    return lambda nb: nb.cells[cell].update(source=text)


def tag(cell, *names):
    """Returns an edit that replaces a cell's tags."""
    return lambda nb: nb.cells[cell].metadata.update(tags=list(names))


def without(cell):
    """Returns an edit that removes a cell."""
    return lambda nb: nb.cells.pop(cell)


def output(cell, *outputs):
    """Returns an edit that replaces a cell's stored outputs."""
    return lambda nb: nb.cells[cell].update(outputs=list(outputs))


def shown(cell, mime, data=""):
    """Returns an edit that makes a cell have displayed something."""
    return output(cell, new_output("display_data", data={mime: data}))


def printed(cell, text):
    """Returns an edit that makes a cell have printed something."""
    return output(cell, new_output("stream", name="stdout", text=text))


TITLE = "# Is a mean the least-squares constant?\n"
PARAMETERS = 'profile: str = "auto"\nseed: int = 0\n'
START = 'import gmmt.notebook\nrun = gmmt.notebook.start("90_example", steps=steps, '

BROKEN = {
    "title is no question": (
        source(0, "# The mean\nRuns 1 s."),
        "cell 1 (markdown): the title must be a question",
    ),
    "title is no heading": (source(0, "Is it?\nRuns 1 s."), "the title must be a question"),
    "no run time": (source(0, TITLE + "Yes."), "the run time is not named"),
    "first cell is code": (without(0), "the first cell must be markdown"),
    "no colab cell": (tag(1), "cell 2 must be code with the tag `colab-setup`"),
    "colab cell always installs": (source(1, "%pip install gmmt"), "must do nothing off Colab"),
    "colab cell installs torch": (
        source(1, "import sys\nif 'google.colab' in sys.modules:\n    %pip install gmmt torch"),
        "install gmmt alone",
    ),
    "no parameters cell": (tag(2), "exactly one cell tagged `parameters`, not 0"),
    "two parameters cells": (tag(7, "parameters"), "exactly one cell tagged `parameters`, not 2"),
    "parameter without a type": (
        source(2, PARAMETERS + "steps = 5"),
        "typed literals, `steps: int = 50`, not 'steps = 5'",
    ),
    "parameter is computed": (source(2, PARAMETERS + "steps: int = max(1, 2)"), "typed literals"),
    "parameter has no value": (source(2, PARAMETERS + "steps: int"), "typed literals"),
    "parameters cell does more": (source(2, PARAMETERS + "print(seed)"), "typed literals"),
    "no profile parameter": (source(2, "seed: int = 0"), "must hold `profile: str = 'auto'`"),
    "another default profile": (
        source(2, 'profile: str = "cpu"\nseed: int = 0'),
        "must hold `profile: str = 'auto'`",
    ),
    "another default seed": (
        source(2, 'profile: str = "auto"\nseed: int = 1'),
        "must hold `seed: int = 0`",
    ),
    "start is not called": (source(3, "import gmmt"), "cell 4 must call gmmt.notebook.start"),
    "start names another notebook": (
        source(3, 'start("91_other", profile=profile, seed=seed)'),
        "cell 4 must call gmmt.notebook.start",
    ),
    "start ignores the seed": (source(3, START + "profile=profile)"), "must hand on seed=seed"),
    "start ignores the profile": (source(3, START + "seed=seed)"), "must hand on profile=profile"),
    "start is not given a parameter": (
        source(3, START.replace("steps=steps, ", "") + "profile=profile, seed=seed)"),
        "must hand on steps=steps",
    ),
    "start is given another value": (
        source(3, START.replace("steps=steps", "steps=7") + "profile=profile, seed=seed)"),
        "must hand on steps=steps",
    ),
    "start is given what is no parameter": (
        source(3, START + "profile=profile, seed=seed, lam=1)"),
        "hands on lam=1, which is no parameter",
    ),
    "set-up is long": (
        source(3, START + "profile=profile, seed=seed)" + "\nimport os" * 7),
        "9 lines, 8 allowed",
    ),
    "no symbols": (without(4), "cell 5 must be markdown"),
    "nothing is compared": (tag(6), "no cell is tagged `nbval-check-output`"),
    "compared cell without output": (output(6), "no text is stored to compare with"),
    "compared cell was not executed": (
        lambda nb: nb.cells[6].update(execution_count=None),
        "no text is stored to compare with",
    ),
    "compared cell only draws": (tag(5, "nbval-check-output"), "no text is stored to compare with"),
    "compared cell names its folder": (
        printed(6, "runs/cpu/seed0/90_example/x.csv"),
        "names the run or its folder",
    ),
    "no exercise": (tag(8), "no markdown cell is tagged `exercise`"),
    "exercise without a stub": (without(9), "followed by a code cell with a stub"),
    "exercise without a solution": (tag(10), "followed by a code cell tagged `solution`"),
    "exercise without an assert": (source(11, "print(answer)"), "with an assert that tells"),
    "exercise is the last cell": (
        lambda nb: nb.cells.append(new_markdown_cell("Why?", metadata={"tags": ["exercise"]})),
        "followed by a code cell",
    ),
    "another kernel": (
        lambda nb: nb.metadata.kernelspec.update(name="my-env"),
        "the kernel's name must be python3",
    ),
    "jupytext's version": (
        lambda nb: nb.metadata.update(jupytext={"text_representation": {"jupytext_version": "1"}}),
        "jupytext_version",
    ),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "widget state"),
    "papermill's copy": (lambda nb: nb.metadata.update(papermill={}), "this is a batch run's copy"),
    "papermill's parameters": (
        lambda nb: nb.cells.insert(
            3, new_code_cell("seed = 1", metadata={"tags": ["injected-parameters"]})
        ),
        "batch run's copy",
    ),
    "a stored error": (
        output(7, new_output("error", ename="E", evalue="", traceback=[])),
        "an error is stored",
    ),
    "a stored widget": (shown(7, "application/vnd.jupyter.widget-view+json"), "a widget is stored"),
    "path in code": (
        source(7, 'open("/home/me/x.csv")'),
        "cell 8 (code): a path of one machine, '/home/me/x.csv'",
    ),
    "path in markdown": (source(12, "See /Users/me/gmmt."), "a path of one machine"),
    "path of Windows": (source(12, r"See C:\data\gmmt."), "a path of one machine"),
    "path in printed text": (printed(7, "wrote /tmp/x"), "a path of one machine"),
    "path in a shown value": (
        shown(7, "text/plain", "PosixPath('/home/x')"),
        "a path of one machine",
    ),
    "path in a shown table": (shown(7, "text/html", "<td>/tmp/x</td>"), "a path of one machine"),
    "many cells": (
        lambda nb: nb.cells.extend(new_markdown_cell("More.") for _ in range(33)),
        "46 cells, 45 allowed",
    ),
    "long code cell": (source(7, "x = 1\n" * 26), "26 lines of code, 25 allowed"),
    "wide code": (source(7, "x = " + "1 + " * 30 + "1"), "a line of 125 characters, 100 allowed"),
    "long markdown cell": (source(12, "word " * 151), "151 words, 150 allowed"),
    "formula in two list items": (
        source(12, "For any $c$, $E(Y - c)^2 = Var(Y) + (E Y\n- c)^2$."),
        "a formula that is not closed in its paragraph, list item or table cell: 'For any",
    ),
    "formula in a list item": (source(12, "- a $b\n+ c$"), "a formula that is not closed"),
    "formula in a numbered list": (source(12, "that is $x =\n1. $"), "a formula that is not"),
    "formula with a heading": (source(12, "$$a\n# b$$"), "a formula that is not closed"),
    "formula with a heading below": (source(12, "$$a\n=\nb$$"), "a formula that is not closed"),
    "formula with a rule": (source(12, "$a\n***\nb$"), "a formula that is not closed"),
    "formula with a quotation": (source(12, "if $a\n> b$"), "a formula that is not closed"),
    "formula with an empty line": (source(12, "$$a\n\nb$$"), "a formula that is not closed"),
    "formula in two table cells": (
        source(4, "| x | y |\n| --- | --- |\n| $P(a|b)$ | 1 |"),
        "a formula that is not closed",
    ),
    "a lone dollar": (source(12, "It costs 5 $ a year."), "a formula that is not closed"),
    "late figure": (
        lambda nb: nb.cells.insert(5, new_markdown_cell("A word before.")),
        "no figure within the first 6 cells",
    ),
    "figure without alt": (
        lambda nb: nb.cells[5].metadata.pop("alt"),
        "a figure without a description",
    ),
    "figure with an empty alt": (
        lambda nb: nb.cells[5].metadata.update(alt=" "),
        "a figure without a description",
    ),
    "picture without alt": (source(12, "![](x.png)"), "an embedded picture without a description"),
    "HTML picture without alt": (
        source(12, '<img src="x.png" alt="">'),
        "an embedded picture without a description",
    ),
    "a cell was not executed": (
        lambda nb: nb.cells[7].update(execution_count=None),
        "cell 8 (code): this cell was not executed",
    ),
    "cells ran in another order": (
        lambda nb: nb.cells[7].update(execution_count=9),
        "was executed as number 9",
    ),
    "cells ran from another start": (
        lambda nb: nb.cells[1].update(execution_count=2),
        "it is number 1",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_rule_catches(case):
    edit, message = BROKEN[case]
    nb = lint.example()
    edit(nb)
    found = lint.problems(nb, "90_example")
    assert any(message in line for line in found), f"not caught; found only: {found}"
    assert all(line.startswith("90_example") for line in found)


@pytest.mark.parametrize("name", ["9_example", "90-example", "90_Example", "example"])
def test_rule_catches_a_name(name):
    assert any(
        "a notebook is named NN_slug" in line for line in lint.problems(lint.example(name), name)
    )


def test_rule_catches_a_large_file():
    assert lint.problems(lint.example(), "90_example", size=700_000) == [
        "90_example.ipynb: 700 KB, 700 allowed. Draw fewer or smaller figures (110 dpi), "
        "print less."
    ]
    assert lint.problems(lint.example(), "90_example", size=699_999) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("len(x)", "len(x) ", None),
        ("mean = sum(x) / len(x)", "mean = 3.0", "cell 7: the source differs"),
        ("# This does not show", "# This doesn't show", "cell 13: the source differs"),
        ('tags=["solution"]', "", "cell 11: the tags differs"),
        ('alt="One dark pixel"', 'alt="A pixel"', "cell 6: the alt text differs"),
        ("# %%\nrun.headline", "# %% [markdown]\n# run.headline", "cell 8: the type differs"),
        ("# %%\nanswer = None", "answer = None", "the ipynb has 13 cells and the py 12"),
        ("name: python3", "name: other", "no header with `kernelspec: name: python3`"),
    ],
)
def test_rule_catches_a_changed_pair(old, new, message):
    text = lint.EXAMPLE.replace("NAME", "90_example")
    assert old in text
    found = lint.problems(
        lint.example(),
        "90_example",
        source=jupytext.reads(text.replace(old, new, 1), fmt="py:percent"),
    )
    if message is None and new.endswith(" "):
        message = "cell 7: the source differs"  # even a blank: what was executed is what is shown
    assert any(message in line for line in found), found


def test_rule_catches_a_missing_half(tmp_path):
    ipynb, py = lint.write_example(tmp_path)
    text = py.read_text(encoding="utf-8")
    py.unlink()
    assert "src/90_example.py is missing" in lint.check_pair(ipynb, py)[0]
    py.write_text(text, encoding="utf-8")
    ipynb.unlink()
    assert "has no executed notebook" in lint.check_pair(ipynb, py)[0]


def test_words_count_running_text_only():
    text = (
        "Four words of text.\n\n| a | table |\n| --- | --- |\n\n$$x = y + z$$\n\n"
        "```python\ncode is not text\n```\n\nand `code` or $a + b$ inside - [a "
        "link](https://example.org/a/b)"
    )
    assert lint.words(text) == 4 + 3 + 2


def test_whole_formulas_are_let_be():
    nb = lint.example()
    nb.cells[12].source = (
        "If $E (Y -\nc)^2 = 0$ and\n$$a\n= b$$\n\n- it costs 5 \\$, `$HOME` and ``a`$``\n\n"
        "```\n$\n```\n\n| a |\n| --- |\n| $P(a \\mid b)$ |"
    )
    assert lint.problems(nb, "90_example") == []


def test_urls_and_equations_are_no_paths():
    nb = lint.example()
    nb.cells[12].source = "See https://example.org/home/me, the ratio a/tmp, and $f: A /root B$."
    assert lint.problems(nb, "90_example") == []


def test_problems_change_nothing():
    nb = lint.example()
    before = copy.deepcopy(nb)
    lint.problems(nb, "90_example", source=nb, size=1)
    assert nb == before
