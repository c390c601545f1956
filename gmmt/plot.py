"""What the notebooks' figures share: a look (resources/gmmt.mplstyle), colours, named intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

Images = Sequence[np.ndarray]  # each [H, W] or [H, W, 3]
Limits = tuple[float, float] | None  # the ends of the colours

# Okabe and Ito's palette, which colour-blind readers can tell apart, for what is measured, for the
# fusions, for trackers.
_INPUTS = {"RGB": "#0072B2", "TIR": "#D55E00", "depth": "#E69F00"}
_OUTPUTS = {"fused": "#009E73", "truth": "#000000"}
_FUSIONS = {"RAW": "#56B4E9", "DM": "#CC79A7", "CGAN": "#E69F00"}
_TRACKERS = {"TBSI+GMMT": "#CC79A7", "DFAT": "#0072B2", "APFNet": "#009E73"}
COLORS = {**_INPUTS, **_OUTPUTS, **_FUSIONS, **_TRACKERS}
INTERVAL = "95 % interval"


def image_row(
    images: Images, titles: Sequence[str], title: str = "", limits: Limits = None
) -> plt.Figure:
    """A row of images with a title over each."""
    return image_grid([images], titles, [""], title, limits)


def image_grid(
    rows: Sequence[Images],
    columns: Sequence[str],
    labels: Sequence[str],
    title: str = "",
    limits: Limits = None,
    width: float = 7.0,
) -> plt.Figure:
    """A grid of images: `columns` over the first row, `labels` left of each row."""
    height, wide = np.shape(rows[0][0])[:2]
    each = (width - 0.7 * any(labels)) / len(columns)
    size = (width, len(rows) * each * height / wide + 0.45 + 0.1 * len(rows))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
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
    ax: plt.Axes, x, curves: Mapping, xlabel: str, ylabel: str, title: str = "", **style
) -> None:
    """Draws named curves over a common x in their own colours; several have a legend."""
    for name, y in curves.items():
        ax.plot(x, y, label=name, color=COLORS.get(name), **style)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(curves) > 1:
        ax.legend()


def forest(
    ax: plt.Axes,
    names: Sequence[str],
    estimates: Sequence,
    xlabel: str,
    title: str,
    colors: Sequence[str] | None = None,
    printed=(),
) -> None:
    """Draws estimates (value, low, high) as dots with intervals, a row each, from the top down.

    `printed`: values to mark (NaN: none).
    """
    y = np.arange(len(names))[::-1]
    for i, (row, e) in enumerate(zip(y, estimates, strict=True)):
        color = colors[i] if colors else COLORS["TBSI+GMMT"]
        label = INTERVAL if i == 0 else None
        ax.plot([e.low, e.high], [row, row], color=color, linewidth=1.4, label=label)
        label = "recomputed" if i == 0 and len(printed) else None
        ax.plot(e.value, row, "o", color=color, label=label)
    if len(printed):
        ax.plot(printed, y, "|", color="black", markersize=11, markeredgewidth=1.6, label="printed")
        below = (0, -0.45 / ax.figure.get_figheight() * 1.5)
        ax.legend(loc="upper left", bbox_to_anchor=below, ncol=3, columnspacing=1.0)
    ax.set(yticks=y, yticklabels=names, xlabel=xlabel, title=title, ylim=(-0.6, len(names) - 0.4))
    ax.grid(axis="y", visible=False)
