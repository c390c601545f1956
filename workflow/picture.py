"""The README's picture of the claims, docs/claims.png: a figure of notebook 00, taken out of it.
`make notebooks` calls this.
"""

import base64

import nbformat

from gmmt.files import ROOT

PICTURE = ROOT / "docs/claims.png"


def figure() -> bytes:
    """Returns the PNG file that notebook 00 shows below the cell that draws the tiles."""
    cells = nbformat.read(ROOT / "notebooks/00_map.ipynb", as_version=4).cells
    cell = next(
        cell for cell in cells if "draw_tiles(ax, ledger)\n" in cell.source and cell.outputs
    )
    return base64.b64decode(cell.outputs[0].data["image/png"])


if __name__ == "__main__":
    PICTURE.write_bytes(figure())
