"""Every figure of the notebooks. One look (resources/gmmt.mplstyle), one colour per modality and method, intervals always named."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

from gmmt.files import resource

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = {
    "RGB": "#0072B2",
    "TIR": "#D55E00",
    "depth": "#E69F00",
    "fused": "#009E73",
    "truth": "#000000",
    "RAW": "#56B4E9",
    "DM": "#CC79A7",
    "CGAN": "#E69F00",
    "TBSI+GMMT": "#CC79A7",
    "DFAT": "#0072B2",
    "APFNet": "#009E73",
}
VERDICT_COLORS = {
    "recomputed": "#0072B2",
    "holds": "#009E73",
    "does not hold": "#D55E00",
    "undecided": "#E69F00",
    "not attempted": "#CCCCCC",
}
INTERVAL = "95 % interval"


def use_style() -> None:
    """Sets the look of all figures."""
    plt.style.use(resource("gmmt.mplstyle"))


def image_row(
    images: Sequence[np.ndarray], titles: Sequence[str], title: str = "", limits: tuple[float, float] | None = None
) -> plt.Figure:
    """Returns a row of images [H, W] or [H, W, 3] with a title over each."""
    return image_grid([images], titles, [""], title, limits)


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    labels: Sequence[str],
    title: str = "",
    limits: tuple[float, float] | None = None,
    width: float = 7.0,
) -> plt.Figure:
    """Returns a grid of images: `columns` over the first row, `labels` left of each row; `limits` are the ends of the colours."""
    height, wide = np.shape(rows[0][0])[:2]
    each = (width - 0.7 * any(labels)) / len(columns)
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(width, len(rows) * each * height / wide + 0.45 + 0.1 * len(rows)), squeeze=False
    )
    for row, (images, label) in enumerate(zip(rows, labels, strict=True)):
        for column, image in enumerate(images):
            ax = axes[row, column]
            low, high = limits if limits and np.ndim(image) == 2 else (None, None)
            ax.imshow(image, vmin=low, vmax=high, cmap=None if np.ndim(image) == 2 else "gray")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(columns[column], fontsize=8, fontweight="normal", loc="center")
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def lines(
    ax: plt.Axes,
    x,
    curves: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str,
    colors: Mapping[str, str] = COLORS,
    **style,
) -> None:
    """Draws named curves over a common x, each labelled in a legend."""
    for name, y in curves.items():
        ax.plot(x, y, label=name, color=colors.get(name), **style)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(curves) > 1:
        ax.legend()


def forest(
    ax: plt.Axes, names: Sequence[str], estimates: Sequence, xlabel: str, title: str, colors: Sequence[str] | None = None, printed=()
) -> None:
    """Draws estimates (objects with value, low, high) as dots with their intervals, one row each, from the top down.

    Args:
        printed: published values to mark beside them (NaN: none).
    """
    y = np.arange(len(names))[::-1]
    for i, (row, e) in enumerate(zip(y, estimates, strict=True)):
        color = colors[i] if colors else COLORS["TBSI+GMMT"]
        ax.plot([e.low, e.high], [row, row], color=color, linewidth=1.4, label=INTERVAL if i == 0 else None)
        ax.plot(e.value, row, "o", color=color, label="recomputed" if i == 0 and len(printed) else None)
    if len(printed):
        ax.plot(printed, y, "|", color="black", markersize=11, markeredgewidth=1.6, label="printed")
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.45 / ax.figure.get_figheight() * 1.5), ncol=3, columnspacing=1.0)
    ax.set(yticks=y, yticklabels=names, xlabel=xlabel, title=title, ylim=(-0.6, len(names) - 0.4))
    ax.grid(axis="y", visible=False)


def claims_map(ledger) -> plt.Figure:
    """Returns the ledger as a row of tiles for each way of checking, coloured by verdict."""
    figure, ax = plt.subplots(figsize=(7, 2.4))
    checks = list(dict.fromkeys(ledger["check"]))
    for row, check in enumerate(checks):
        part = ledger[ledger["check"] == check].copy()
        part["order"] = part["verdict"].map(list(VERDICT_COLORS).index)
        for column, (_, claim) in enumerate(part.sort_values("order", kind="stable").iterrows()):
            color = VERDICT_COLORS[claim["verdict"]]
            ax.add_patch(
                FancyBboxPatch(
                    (column + 0.06, -row + 0.06), 0.88, 0.78, boxstyle="round,pad=0,rounding_size=0.12", facecolor=color, edgecolor="none"
                )
            )
            dark = claim["verdict"] in ("not attempted", "undecided")
            ax.text(column + 0.5, -row + 0.45, claim["id"][1:], ha="center", va="center", fontsize=7, color="black" if dark else "white")
    counts = ledger["verdict"].value_counts()
    for verdict, color in VERDICT_COLORS.items():
        ax.plot([], [], "s", color=color, label=f"{verdict} ({counts.get(verdict, 0)})", markersize=7)
    ax.legend(loc="upper left", bbox_to_anchor=(-0.2, -0.02), ncol=5, columnspacing=0.8, handletextpad=0.1)
    ax.set(xlim=(0, ledger["check"].value_counts().max()), ylim=(1 - len(checks), 1), xticks=[])
    ax.set_yticks(0.45 - np.arange(len(checks)), [f"{c} " for c in checks])
    ax.set_title("What can be checked, and what checking says", loc="left")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def data_flow() -> plt.Figure:
    """Returns the data flow of a multi-modal tracker, with the block that GMMT replaces marked (after the paper's Fig. 1)."""
    figure, ax = plt.subplots(figsize=(7, 2.3))

    def box(x, y, w, text, color, dashed=False):
        style = {"linestyle": "--"} if dashed else {}
        ax.add_patch(
            FancyBboxPatch(
                (x, y - 0.3), w, 0.6, boxstyle="round,pad=0,rounding_size=0.1", facecolor=color + "22", edgecolor=color, lw=1.4, **style
            )
        )
        ax.text(x + w / 2, y, text, ha="center", va="center", fontsize=8)

    def arrow(x0, y0, x1, y1, **style):
        ax.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": "0.3", "lw": 1.1, "shrinkA": 0, "shrinkB": 1} | style)

    for y, name, color in ((2.3, "RGB", COLORS["RGB"]), (1.1, "TIR", COLORS["TIR"])):
        box(0, y, 1.1, f"{name} frame", color)
        box(1.6, y, 1.5, "feature extractor\n(frozen)", color)
        arrow(1.1, y, 1.6, y)
        ax.text(3.2, y + (0.13 if name == "RGB" else -0.3), f"$f_{{{name.lower()}}}$", fontsize=9, color=color)
    box(4.1, 2.3, 1.7, "fusion block\n(frozen, then dropped)", "#777777", dashed=True)
    box(4.1, 1.1, 1.7, "generative model\nDM or CGAN", COLORS["DM"])
    for y in (2.3, 1.1):
        arrow(3.1, y, 4.1, 2.3 if y == 2.3 else 1.1)
    arrow(3.1, 2.2, 4.1, 1.25)
    arrow(3.1, 1.2, 4.1, 2.15)
    box(3.75, 0.15, 0.75, "noise $z$", "#000000")
    arrow(4.5, 0.3, 4.75, 0.8)
    box(6.5, 1.1, 1.1, "new head", COLORS["fused"])
    arrow(5.8, 1.1, 6.5, 1.1)
    ax.text(5.88, 1.22, "$fused^*$", fontsize=9, color=COLORS["DM"])
    arrow(4.95, 2.0, 4.95, 1.4, linestyle="--")
    ax.text(5.03, 1.63, "$fused$: what to generate (training)", fontsize=8)
    box(8.0, 1.1, 0.9, "box", COLORS["truth"])
    arrow(7.6, 1.1, 8.0, 1.1)
    ax.set(xlim=(-0.05, 9), ylim=(-0.2, 2.75))
    ax.axis("off")
    ax.set_title("GMMT puts a generative model in the place of a tracker's fusion block", loc="left")
    return figure


def band(ax: plt.Axes, x, low, high, color: str) -> None:
    """Draws an interval, or an area, as a band."""
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def box_path(ax: plt.Axes, boxes: Mapping[str, np.ndarray], title: str, every: int) -> None:
    """Draws the centre path of each set of boxes [n, 4] through the image, from a dot, and every so many boxes themselves."""
    for name, b in boxes.items():
        color = COLORS.get(name, "0.4")
        ax.plot(b[:, 0] + b[:, 2] / 2, b[:, 1] + b[:, 3] / 2, color=color, label=name, linewidth=1.2)
        ax.plot(b[0, 0] + b[0, 2] / 2, b[0, 1] + b[0, 3] / 2, "o", color=color, markersize=3)
        for x, y, w, h in b[::every]:
            ax.add_patch(plt.Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=0.8))
    ax.set(xlabel="x / px", ylabel="y / px", title=title, aspect="equal")
    ax.invert_yaxis()


def convention_grid(table, order: Sequence[str]) -> plt.Figure:
    """Returns how far each changed convention moves PR and SR, a row for each change, a marker for each benchmark."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), sharey=True)
    rows = list(order)[::-1]
    looks = zip(("o", "s", "D"), (COLORS["RGB"], COLORS["DM"], COLORS["fused"]), strict=True)
    for (i, (name, part)), (marker, color) in zip(enumerate(table.groupby(["benchmark", "tracker"], sort=False)), looks, strict=False):
        for ax, metric in zip(axes, ("PR", "SR"), strict=True):
            y = part["change"].map(rows.index) + 0.24 * (1 - i)
            ax.plot(part[metric], y, marker, markersize=4, label=", ".join(name), color=color)
    for ax, metric in zip(axes, ("PR", "SR"), strict=True):
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-20, 4)
        ax.set_xticks([-10, -5, -2, -1, 0, 1, 2], ["-10", "-5", "-2", "-1", "0", "1", "2"])
        ax.minorticks_off()
        ax.set(yticks=range(len(rows)), yticklabels=rows, xlabel=f"change of {metric} / points")
    axes[0].set_title("What one changed convention is worth")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    return figure
