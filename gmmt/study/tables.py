"""The tables in miniature, and their rows. Importing this is cheap."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table in miniature: its rows, in order, and the folder of its stored results."""

    number: str  # "2" of the paper, "6" of its supplement
    folder: str  # in notebooks/results/
    rows: tuple[str, ...]
    by_attribute: tuple[str, ...] = ()  # rows whose scores by attribute are stored, too


TABLES: Mapping[str, Table] = {
    "2": Table(
        "2",
        "miniature",
        (
            *("RGB", "TIR", "Base", "Base-long", "HEAD", "TRK", "NOISE", "RAW", "CGAN"),
            *("DM", "DM-random", "DM-released", "DM-noise", "RAW-uvit", "DM-uvit"),
        ),
        ("Base-long", "HEAD", "RAW", "CGAN", "DM"),
    ),
    "6": Table(
        "6",
        "miniature_vit",
        (
            *("OSTrack", "OSTrack-long"),
            *("ViPT", "ViPT-long", "ViPT-HEAD", "ViPT-DM", "ViPT-DM-uvit"),
            *("TBSI", "TBSI-long", "TBSI-HEAD", "TBSI-DM", "TBSI-DM-uvit"),
        ),
    ),
}
"""Table 2 is on the Siamese tracker, Table 6 on trackers with a ViT."""


ROWS: tuple[str, ...] = TABLES["2"].rows


ALL_ROWS: tuple[str, ...] = (*TABLES["2"].rows, *TABLES["6"].rows)
