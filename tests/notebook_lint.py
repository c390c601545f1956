"""The rules that every notebook of this project keeps, as plain functions; tests/test_notebooks.py
holds each notebook against them.

    python tests/notebook_lint.py notebooks/01_noise_schedule.ipynb     # what is wrong with one
    notebook, or nothing

A notebook is a pair: notebooks/NN_slug.ipynb, executed, which is read, and notebooks/src/NN_slug.py
(py:percent), which is edited.
"""

import ast
import re
import sys
from pathlib import Path

import jupytext
import nbformat
from markdown_it import MarkdownIt
from nbformat.v4 import new_output

MAX_CELLS, MAX_CODE_LINES, MAX_WIDTH, MAX_SETUP_LINES, MAX_WORDS, MAX_KB, FIGURE_WITHIN = (
    45,
    25,
    100,
    8,
    150,
    700,
    6,
)

RUN_TIME = re.compile(r"\d\s*(?:s|sec|seconds?|min|minutes?|h|hours?)\b")
MARKDOWN_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\([^)]*\)|(?P<html><img\b[^>]*>)")
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.~$}*-])/(?:home|work|root|tmp|Users)\b[\w./-]*|\bC:\\[\w\\.-]*"
)
FORMULA_OR_CODE = re.compile(
    r"\\\$|(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)|\$\$[^$]+\$\$|\$[^$]+\$", re.DOTALL
)
MATH = re.compile(r"\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|\$[^$\n]+\$", re.DOTALL)


def problems(nb, name: str, *, source=None, size: int | None = None) -> list[str]:
    """Returns what is wrong with an executed notebook, one message for each finding: where, what,
    and what to do about it.

    Args:
        nb: the notebook's ipynb form.
        name: its file's name without the ending.
        source: its py:percent form, read by jupytext, if the two are to be compared.
        size: the ipynb file's size in bytes.
    """
    found = []
    for rule in RULES:
        for cell, message in rule(nb, name):
            where = (
                f"{name}.ipynb"
                if cell is None
                else f"{name}.ipynb, cell {cell + 1} ({nb.cells[cell].cell_type})"
            )
            found.append(f"{where}: {message}")
    if source is not None:
        found += [f"{name}: {message}" for message in pair_differences(nb, source, name)]
    if size is not None and size >= MAX_KB * 1000:
        found.append(
            f"{name}.ipynb: {size / 1000:.0f} KB, {MAX_KB} allowed. Draw fewer or smaller "
            "figures (110 dpi), print less."
        )
    return found


def check_pair(ipynb: Path, py: Path) -> list[str]:
    """Returns what is wrong with one pair of files."""
    if not py.is_file():
        return [
            f"{ipynb.name}: its text form {py.parent.name}/{py.name} is missing. Run: "
            f"jupytext --sync {ipynb.name}"
        ]
    if not ipynb.is_file():
        return [f"{py.name}: it has no executed notebook. Run: make notebooks"]
    return problems(
        nbformat.read(ipynb, as_version=4),
        ipynb.stem,
        source=jupytext.read(py),
        size=ipynb.stat().st_size,
    )


# -- What the rules ask ----------------------------------------------------------------------------


def tags(cell) -> list[str]:
    """Returns a cell's tags."""
    return cell.metadata.get("tags", [])


def line_count(text: str) -> int:
    """Returns the number of lines, without blank ones at the end."""
    return len(text.rstrip().splitlines())


def without_math(text: str) -> str:
    """Returns markdown without its equations."""
    return MATH.sub(" ", text)


def words(markdown: str) -> int:
    """Returns the number of words of running text: what stands in tables, equations, code, comments
    and link targets is not counted.
    """
    text = re.sub(r"```.*?```|~~~.*?~~~|<!--.*?-->", " ", markdown, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]+`", " ", without_math(text))
    text = re.sub(r"^\s*\|.*$", " ", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|<[^>\n]+>", r"\1 ", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def mime_types(cell) -> set[str]:
    """Returns the MIME types among a code cell's outputs."""
    return {mime for output in cell.get("outputs", []) for mime in output.get("data", {})}


def output_texts(cell):
    """Yields every stored text of a code cell's outputs; images are left out, since base64 may hold
    anything.
    """
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from output.get("traceback", [])
        for mime, data in output.get("data", {}).items():
            if isinstance(data, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                yield data


def shows_figure(cell) -> bool:
    """Returns whether a cell shows a picture, drawn or embedded."""
    if cell.cell_type == "markdown":
        return bool(MARKDOWN_IMAGE.search(cell.source))
    return any(mime.startswith("image/") for mime in mime_types(cell))


def parameter_names(nb) -> list[str]:
    """Returns the names in a notebook's parameters cell, profile and seed at least."""
    names = {"profile": None, "seed": None}
    for cell in nb.cells:
        if "parameters" in tags(cell):
            names |= dict.fromkeys(re.findall(r"^(\w+) *:", cell.source, flags=re.MULTILINE))
    return list(names)


def start_call(source: str) -> ast.Call | None:
    """Returns the call of gmmt.notebook.start in a cell's source, or None."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return None
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return next((c for c in calls if re.search(r"(^|\.)start$", ast.unparse(c.func))), None)


# -- The rules: each yields (the cell's index or None, message) ------------------------------------


def rule_name(nb, name):
    if not re.fullmatch(r"\d\d_[a-z0-9_]+", name):
        yield (
            None,
            "a notebook is named NN_slug: two digits, then lower-case words joined by "
            "underscores. Rename both files.",
        )


def rule_title(nb, name):
    first = nb.cells[0] if nb.cells else None
    if first is None or first.cell_type != "markdown":
        yield (
            None,
            "the first cell must be markdown: the question, its answer in a sentence, "
            "sections, run time, what comes before.",
        )
        return
    title = first.source.splitlines()[0] if first.source else ""
    if not re.fullmatch(r"# .+\?", title.strip()):
        yield 0, f"the title must be a question, `# ...?`, not {title!r}."
    if not RUN_TIME.search(first.source):
        yield (
            0,
            "the run time is not named. Say how long it runs for each profile, such as `smoke "
            "5 s, cpu 2 min`.",
        )


def rule_order(nb, name):
    for index, tag in [(1, "colab-setup"), (2, "parameters")]:
        cell = nb.cells[index] if index < len(nb.cells) else None
        if cell is None or cell.cell_type != "code" or tag not in tags(cell):
            yield (
                (index if cell else None),
                f'cell {index + 1} must be code with the tag `{tag}`: # %% tags=["{tag}"]',
            )
    if len(nb.cells) < 5 or nb.cells[4].cell_type != "markdown":
        yield (
            None,
            "cell 5 must be markdown: the idea in a paragraph, and a table of symbols (paper, "
            "code, shape).",
        )


def rule_colab(nb, name):
    for index, cell in enumerate(nb.cells):
        if "colab-setup" not in tags(cell):
            continue
        if "colab" not in cell.source.lower().replace("colab-setup", ""):
            yield (
                index,
                "this cell must do nothing off Colab: ask first whether `google.colab` is there.",
            )
        if re.search(
            r"pip install[^\n]*\b(?:torch|numpy|pandas|matplotlib|ipykernel)\b", cell.source
        ):
            yield (
                index,
                "install gmmt alone: Colab's own torch, numpy, pandas, matplotlib and "
                "ipykernel must stay.",
            )


def rule_parameters(nb, name):
    cells = [index for index, cell in enumerate(nb.cells) if "parameters" in tags(cell)]
    if len(cells) != 1:
        yield None, f"there must be exactly one cell tagged `parameters`, not {len(cells)}."
    for index in cells[:1]:
        given = {}
        try:
            body = ast.parse(nb.cells[index].source).body
        except SyntaxError as error:
            yield index, f"the parameters are not valid Python: {error}."
            continue
        for statement in body:
            try:
                if not isinstance(statement, ast.AnnAssign) or not isinstance(
                    statement.target, ast.Name
                ):
                    raise ValueError
                given[statement.target.id] = (
                    ast.unparse(statement.annotation),
                    ast.literal_eval(statement.value),
                )
            except (ValueError, TypeError):
                yield (
                    index,
                    "parameters are typed literals, `steps: int = 50`, not "
                    f"{ast.unparse(statement)!r}.",
                )
        for parameter, wanted in {"profile": ("str", "auto"), "seed": ("int", 0)}.items():
            if given.get(parameter) != wanted:
                yield index, f"the parameters must hold `{parameter}: {wanted[0]} = {wanted[1]!r}`."


def rule_setup(nb, name):
    cell = nb.cells[3] if len(nb.cells) > 3 else None
    call = start_call(cell.source) if cell is not None and cell.cell_type == "code" else None
    if call is None or [ast.unparse(argument) for argument in call.args] != [repr(name)]:
        yield (
            (3 if cell else None),
            f'cell 4 must call gmmt.notebook.start("{name}", profile=profile, seed=seed, ...).',
        )
        return
    handed_on = [ast.unparse(keyword) for keyword in call.keywords]
    wanted = [f"{parameter}={parameter}" for parameter in parameter_names(nb)]
    for argument in sorted({*wanted} - {*handed_on}):
        yield (
            3,
            f"the call of start() must hand on {argument}: a result's provenance holds every "
            "parameter of the notebook.",
        )
    for argument in sorted({*handed_on} - {*wanted}):
        yield 3, f"the call of start() hands on {argument}, which is no parameter."
    if line_count(cell.source) > MAX_SETUP_LINES:
        yield (
            3,
            f"the set-up cell has {line_count(cell.source)} lines, {MAX_SETUP_LINES} allowed. "
            "Import less.",
        )


def rule_compared(nb, name):
    compared = [index for index, cell in enumerate(nb.cells) if "nbval-check-output" in tags(cell)]
    if not compared:
        yield (
            None,
            "no cell is tagged `nbval-check-output`: tag the ones that assert and print the "
            "result.",
        )
    for index in compared:
        cell = nb.cells[index]
        # A picture's text form (<Figure ...>) says nothing about what it shows.
        told = {
            "outputs": [
                output
                for output in cell.get("outputs", [])
                if not {"image/png", "image/jpeg"} & set(output.get("data", {}))
            ]
        }
        if (
            cell.cell_type != "code"
            or cell.get("execution_count") is None
            or not any(text.strip() for text in output_texts(told))
        ):
            yield (
                index,
                "tagged `nbval-check-output` but no text is stored to compare with: print a "
                "line, then run `make notebooks`.",
            )
        if any("Run(" in text or f"seed0/{name}" in text for text in output_texts(cell)):
            yield (
                index,
                "a compared output names the run or its folder, which differ between "
                "profiles: print it in another cell.",
            )


def rule_exercise(nb, name):
    exercises = [
        index
        for index, cell in enumerate(nb.cells)
        if "exercise" in tags(cell) and cell.cell_type == "markdown"
    ]
    if not exercises:
        yield None, "no markdown cell is tagged `exercise`."
    for index in exercises:
        stub, solution, check = ([*nb.cells[index + 1 : index + 4], None, None, None])[:3]
        if stub is None or stub.cell_type != "code" or "solution" in tags(stub):
            yield index, "an exercise is followed by a code cell with a stub to fill in."
        elif solution is None or solution.cell_type != "code" or "solution" not in tags(solution):
            yield index, "an exercise's stub is followed by a code cell tagged `solution`."
        elif check is None or check.cell_type != "code" or "assert" not in check.source:
            yield (
                index,
                "an exercise's solution is followed by a code cell with an assert that tells "
                "whether an answer is right.",
            )


def rule_metadata(nb, name):
    if nb.metadata.get("kernelspec", {}).get("name") != "python3":
        yield None, "the kernel's name must be python3 (metadata kernelspec.name)."
    if "jupytext_version" in str(nb.metadata):
        yield (
            None,
            "the metadata hold a jupytext_version, which would change with every machine. "
            "Run: make notebooks",
        )
    if "widgets" in nb.metadata:
        yield (
            None,
            "the metadata hold widget state, which GitHub does not show. Use plain tqdm; run: "
            "make notebooks",
        )
    if "papermill" in nb.metadata or any(
        "papermill" in cell.metadata or "injected-parameters" in tags(cell) for cell in nb.cells
    ):
        yield None, "this is a batch run's copy (papermill's marks are in it). Run: make notebooks"


def rule_outputs(nb, name):
    for index, cell in enumerate(nb.cells):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            yield (
                index,
                "an error is stored as this cell's output. Mend the cell, then run `make "
                "notebooks`.",
            )
        if any(mime.startswith("application/vnd.jupyter.widget") for mime in mime_types(cell)):
            yield (
                index,
                "a widget is stored as output, which GitHub does not show. Use plain tqdm "
                "(from tqdm import tqdm).",
            )


def rule_paths(nb, name):
    for index, cell in enumerate(nb.cells):
        own = without_math(cell.source) if cell.cell_type == "markdown" else cell.source
        for text in [own, *output_texts(cell)]:
            if match := ABSOLUTE_PATH.search(text):
                yield (
                    index,
                    f"a path of one machine, {match[0]!r}. Paths come from run.folder and "
                    "gmmt.files, and are not printed.",
                )
                break


def rule_lengths(nb, name):
    if len(nb.cells) > MAX_CELLS:
        yield (
            None,
            f"{len(nb.cells)} cells, {MAX_CELLS} allowed. Split the notebook, or move code "
            "into gmmt/.",
        )
    for index, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and line_count(cell.source) > MAX_CODE_LINES:
            yield (
                index,
                f"{line_count(cell.source)} lines of code, {MAX_CODE_LINES} allowed. Move the "
                "reusable part into gmmt/.",
            )
        wide = max((len(line) for line in cell.source.splitlines()), default=0)
        if cell.cell_type == "code" and wide > MAX_WIDTH:
            yield (
                index,
                f"a line of {wide} characters, {MAX_WIDTH} allowed: rendered pages cut what "
                "is wider. Break it.",
            )
        if cell.cell_type == "markdown" and words(cell.source) > MAX_WORDS:
            yield (
                index,
                f"{words(cell.source)} words, {MAX_WORDS} allowed (tables, equations and code "
                "do not count). Say it shorter.",
            )


def rule_formulas(nb, name):
    parser = MarkdownIt("commonmark").enable("table")
    for index, cell in enumerate(nb.cells):
        for block in parser.parse(cell.source) if cell.cell_type == "markdown" else ():
            if block.type == "inline" and "$" in FORMULA_OR_CODE.sub(" ", block.content):
                yield (
                    index,
                    f"a formula that is not closed in its paragraph, list item or table cell: "
                    f"{block.content!r}. Does a line of it begin as a list, a heading or a rule "
                    "does (`- c`)? Wrap it elsewhere; a dollar that opens no formula is \\$.",
                )


def rule_figures(nb, name):
    if not any(shows_figure(cell) for cell in nb.cells[:FIGURE_WITHIN]):
        yield (
            None,
            f"no figure within the first {FIGURE_WITHIN} cells: open with a picture, drawn or "
            "embedded.",
        )
    for index, cell in enumerate(nb.cells):
        if (
            cell.cell_type == "code"
            and shows_figure(cell)
            and not str(cell.metadata.get("alt", "")).strip()
        ):
            yield (
                index,
                'a figure without a description for those who cannot see it: # %% alt="what '
                'the figure shows"',
            )
        for match in MARKDOWN_IMAGE.finditer(cell.source if cell.cell_type == "markdown" else ""):
            if (
                not re.search(r"\balt=[\"'][^\"']*\w", match["html"])
                if match["html"]
                else not match["alt"].strip()
            ):
                yield (
                    index,
                    "an embedded picture without a description: ![what the picture shows](...)",
                )


def rule_execution(nb, name):
    code = [
        index
        for index, cell in enumerate(nb.cells)
        if cell.cell_type == "code" and cell.source.strip()
    ]
    for expected, index in enumerate(code, start=1):
        count = nb.cells[index].get("execution_count")
        if count != expected:
            ran = "was not executed" if count is None else f"was executed as number {count}"
            yield (
                index,
                f"this cell {ran}; run from top to bottom in a fresh kernel it is number "
                f"{expected}. Run: make notebooks",
            )
            return


def pair_differences(nb, source, name: str) -> list[str]:
    """Returns how the py form differs from the ipynb form; what is stored as output belongs to the
    former only if they agree.
    """
    advice = "Run `make notebooks`, or `jupytext --sync` if you edited the ipynb."
    found = []
    if source.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append(
            f"src/{name}.py has no header with `kernelspec: name: python3`, and papermill "
            f"would find no kernel. {advice}"
        )
    if "jupytext_version" in str(source.metadata):
        found.append(
            f"src/{name}.py names a jupytext_version, which would change with every machine. "
            f"{advice}"
        )
    if len(nb.cells) != len(source.cells):
        found.append(
            f"the ipynb has {len(nb.cells)} cells and the py {len(source.cells)}. {advice}"
        )
    for index, (ours, theirs) in enumerate(zip(nb.cells, source.cells, strict=False), start=1):
        for what, one, other in [
            ("type", ours.cell_type, theirs.cell_type),
            ("source", ours.source.strip(), theirs.source.strip()),
            ("tags", sorted(tags(ours)), sorted(tags(theirs))),
            ("alt text", ours.metadata.get("alt"), theirs.metadata.get("alt")),
        ]:
            if one != other:
                return [
                    *found,
                    f"cell {index}: the {what} differs between the ipynb and the py form. {advice}",
                ]
    return found


RULES = [rule for rule_id, rule in list(globals().items()) if rule_id.startswith("rule_")]


# -- A notebook that keeps every rule: the smallest whole example, which the tests break and run ---

EXAMPLE = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Is a mean the least-squares constant?
# Yes. Section 0. Runs 1 s under every profile. Nothing comes before.

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:
    raise SystemExit("The example is not meant for Colab.")

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
steps: int = 5

# %%
import gmmt.notebook

run = gmmt.notebook.start("NAME", profile=profile, seed=seed, steps=steps)

# %% [markdown]
# The constant nearest to all values in the square is their mean.
#
# | paper | code | shape |
# | --- | --- | --- |
# | $x$ | `x` | (4,) |

# %% alt="One dark pixel"
from base64 import b64decode

from IPython.display import Image, display

dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptV"
dot += "AAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
display(Image(b64decode(dot), format="png"))

# %% tags=["nbval-check-output"]
x = [1.0, 2.0, 3.0, 6.0]
mean = sum(x) / len(x)
least = sum((v - mean) ** 2 for v in x)
assert all(least <= sum((v - mean - d) ** 2 for v in x) for d in (-0.1, 0.1))
print(f"mean {mean:.3f}")

# %%
run.headline(f"mean {mean:.1f}")

# %% [markdown] tags=["exercise"]
# Which constant is nearest in the absolute difference?

# %%
answer = None  # your answer

# %% tags=["solution"]
answer = sorted(x)[len(x) // 2]

# %%
assert answer in (2.0, 3.0), "any value between the two middle ones"

# %% [markdown]
# This does not show what happens with outliers.
"""


def example(name: str = "90_example"):
    """Returns a small notebook that keeps every rule, with the outputs that it has when executed
    (seed 0, profile cpu).
    """
    nb = jupytext.reads(EXAMPLE.replace("NAME", name), fmt="py:percent")
    nb.metadata.pop("jupytext", None)
    pixel = "".join(re.findall(r'dot \+?= "([^"]+)"', EXAMPLE))
    line = f"{name} · profile cpu · seed 0 · runs/by-hand/cpu/seed0/{name}\n"
    stored = {
        "gmmt.notebook.start(": new_output("stream", name="stdout", text=line),
        "b64decode(": new_output(
            "display_data",
            data={"image/png": pixel, "text/plain": "<IPython.core.display.Image object>"},
        ),
        "print(": new_output("stream", name="stdout", text="mean 3.000\n"),
    }
    count = 0
    for index, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{index + 1:02d}"
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1
            cell.outputs = [output for mark, output in stored.items() if mark in cell.source]
    return nb


def write_example(
    root: Path, name: str = "90_example", edit=lambda text: text
) -> tuple[Path, Path]:
    """Returns the two files (ipynb, py) of the example, written below root/notebooks; `edit` may
    change the py form's text.
    """
    ipynb, py = root / "notebooks" / f"{name}.ipynb", root / "notebooks" / "src" / f"{name}.py"
    py.parent.mkdir(parents=True, exist_ok=True)
    py.write_text(edit(EXAMPLE.replace("NAME", name)), encoding="utf-8")
    nbformat.write(example(name), ipynb)
    return ipynb, py


if __name__ == "__main__":
    findings = [
        line
        for arg in sys.argv[1:]
        for line in check_pair(Path(arg), Path(arg).parent / "src" / f"{Path(arg).stem}.py")
    ]
    print("\n".join(findings) or "Nothing is wrong.")
    sys.exit(bool(findings))
