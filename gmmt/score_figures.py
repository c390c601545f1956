"""What `gmmt score --plot` draws: curves with bands, and scores by attribute."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from gmmt.curves import band, curve
from gmmt.files import atomic_write, resource
from gmmt.metrics import METRICS, Frames, Scores
from gmmt.plot import INTERVAL
from gmmt.protocol import Protocol

CURVES = {
    "SR": ("success", "overlap threshold", "frames with more overlap (%)"),
    "PR": ("precision", "centre error threshold (pixels)", "frames with less error (%)"),
    "NPR": ("norm_precision", "normalised error threshold", "frames with less error (%)"),
}
"""metric -> name of the file, what the axes show."""
# Okabe and Ito's, but yellow, which is hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def draw(
    measured: Mapping[str, Frames],
    scored: Mapping[str, Scores],
    protocol: Protocol,
    rows: Iterable[Mapping],
    folder: Path,
    resamples: int,
) -> list[Path]:
    """Writes the figures of trackers by name, as PNG and SVG; returns where they are.

    `rows` are of `results.comparison`: where they hold attributes, these are drawn, too.
    """
    style = resource("gmmt.mplstyle")
    with plt.style.context(style), plt.rc_context({"svg.hashsalt": "gmmt"}):
        files = []
        for metric, (name, xlabel, ylabel) in CURVES.items():
            figure = _curves(measured, scored, protocol, metric, resamples)
            figure.axes[0].set(xlabel=xlabel, ylabel=ylabel)
            files += _save(figure, folder / name)
        table = [row for row in rows if row["tracker"] in scored]
        if len({row["subset"] for row in table}) > 1:
            files += _save(_attributes(table, list(scored), protocol.name), folder / "attributes")
    return files


def _curves(
    measured: Mapping[str, Frames],
    scored: Mapping[str, Scores],
    protocol: Protocol,
    metric: str,
    resamples: int,
) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(5.0, 3.6))
    # The best first, as readers of legends expect.
    for i, tracker in _best_first(scored, metric):
        x, shares = curve(measured[tracker], metric, protocol)
        color, label = (
            COLORS[i % len(COLORS)],
            f"{tracker}  {100 * scored[tracker].mean(metric):.1f}",
        )
        line = "-" if i < len(COLORS) else "--"
        if resamples:
            mean, low, high = band(shares, scored[tracker].weights(), resamples)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            mean = 100 * np.average(shares, 0, scored[tracker].weights())
        ax.plot(x, mean, line, color=color, label=label)
    end = {"PR": protocol.precision_threshold, "NPR": protocol.norm_precision_threshold}
    if metric in end:
        ax.axvline(end[metric], color="0.5", linewidth=0.8, linestyle=":")
    n = len(next(iter(scored.values())).sequences)
    shade = f"; shaded: {INTERVAL}" if resamples else ""
    ax.set(title=f"{metric} on {protocol.name} ({n} sequences{shade})", ylim=(0, 100))
    ax.set_xlim(x[0], x[-1])
    ax.legend(loc="lower left" if metric == "SR" else "lower right")
    return figure


def _best_first(scored: Mapping[str, Scores], metric: str) -> list[tuple[int, str]]:
    """Trackers with their places in the order given, sorted by a score."""
    return sorted(enumerate(scored), key=lambda item: -scored[item[1]].mean(metric))


def _attributes(table: list[Mapping], trackers: list[str], benchmark: str) -> plt.Figure:
    """A row of dots an attribute, a column a metric."""
    subsets = list(dict.fromkeys(row["subset"] for row in table))
    counts = {row["subset"]: row["n_sequences"] for row in table}
    height = 1.2 + 0.22 * len(subsets) * (1 + 0.3 * len(trackers))
    figure, axes = plt.subplots(1, len(METRICS), figsize=(8.0, height), sharey=True)
    y = np.arange(len(subsets))[::-1]
    far = min(0.32, 0.1 * (len(trackers) - 1))
    shifts = np.linspace(far, -far, len(trackers))
    for ax, metric in zip(axes, METRICS, strict=True):
        for i, (tracker, shift) in enumerate(zip(trackers, shifts, strict=True)):
            rows = [r for r in table if r["tracker"] == tracker and r["metric"] == metric]
            value, low, high = (np.array([r[c] for r in rows]) for c in ("value", "low", "high"))
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            ax.hlines(y + shift, low, high, color=color, linewidth=1.2)
            ax.plot(value, y + shift, marker, color=color, markersize=3.5, label=tracker)
        ax.set(title=metric, xlabel="percent")
        ax.grid(axis="y", visible=False)
    axes[0].set(yticks=y, yticklabels=[f"{name} ({counts[name]})" for name in subsets])
    axes[0].set_ylim(-0.6, len(subsets) - 0.4)
    figure.suptitle(
        f"Scores by attribute on {benchmark} (number of sequences; lines: {INTERVAL})",
        x=0.01, ha="left", fontsize=10, fontweight="bold",
    )  # fmt: skip
    if len(trackers) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=len(trackers)
        )
    return figure


def _save(figure: plt.Figure, path: Path) -> list[Path]:
    files = []
    for ending, more in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        files.append(path.with_name(path.name + ending))
        with atomic_write(files[-1], "wb") as file:
            figure.savefig(file, format=ending[1:], **more)
    plt.close(figure)
    return files
