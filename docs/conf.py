"""Configuration of the book (make book). It holds no text of its own: its pages are the executed notebooks, as they are stored."""

import json
import shutil
from pathlib import Path

import gmmt

project = "GMMT, reproduced"
author = "The gmmt contributors"
version = release = gmmt.__version__
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = project
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
suppress_warnings = ["myst.header", "misc.highlighting_failure"]  # notebooks may start a section at any level, and hold magics

DOCS = Path(__file__).resolve().parent
PAGES = DOCS / "_build" / "pages"


def fill(pages: Path) -> None:
    """Copies the notebooks into the book's source folder, with the alt texts of figures where myst-nb looks for them."""
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    shutil.copy(DOCS / "index.md", pages)
    for path in sorted((DOCS.parent / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "alt" in cell["metadata"]:
                cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
        (pages / path.name).write_text(json.dumps(notebook), encoding="utf-8")


fill(PAGES)
