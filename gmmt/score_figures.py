"""What `gmmt score --plot` draws: curves with bands, and scores by attribute."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from gmmt.curves import band, curve
from gmmt.errors import SettingError
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
COLORS = tuple(f"C{i}" for i in range(7))
"""Those of the style's cycle."""
MARKERS = "osD^vPX<>"
LINES = ("-", "--", "-.", ":")
MOST = 24
"""Trackers in a figure that can be told apart."""


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
    if len(scored) > MOST:
        raise SettingError(f"{len(scored)} trackers in one figure: expected {MOST} at most")
    style = resource("gmmt.mplstyle")
    with plt.style.context(style), plt.rc_context({"svg.hashsalt": "gmmt"}):
        files = []
        for metric, (name, xlabel, ylabel) in CURVES.items():
            figure = _curves(measured, scored, protocol, metric, resamples)
            figure.axes[0].set(xlabel=xlabel, ylabel=ylabel)
            files += _save(figure, folder / name)
        table = [row for row in rows if row["tracker"] in scored]
        if len({row["subset"] for row in table}) > 1:
            shown = f"; lines: {INTERVAL}" if resamples else ""
            figure = _attributes(table, list(scored), f"{protocol.name} (sequences{shown})")
            files += _save(figure, folder / "attributes")
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
    handles, labels = [], []
    for i, tracker in _best_first(scored, metric):
        x, shares = curve(measured[tracker], metric, protocol)
        color = COLORS[i % len(COLORS)]
        if resamples:
            mean, low, high = band(shares, scored[tracker].weights(), resamples)
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            mean = 100 * np.average(shares, 0, scored[tracker].weights())
        handles += ax.plot(x, mean, LINES[i // len(COLORS)], color=color)
        labels.append(f"{_short(tracker)}  {100 * scored[tracker].mean(metric):.1f}")
    end = {"PR": protocol.precision_threshold, "NPR": protocol.norm_precision_threshold}
    if metric in end:
        ax.axvline(end[metric], color="0.5", linewidth=0.8, linestyle=":")
    n = len(next(iter(scored.values())).sequences)
    shade = f"; shaded: {INTERVAL}" if resamples else ""
    ax.set(title=f"{metric} on {_short(protocol.name)} ({n} sequences{shade})", ylim=(0, 100))
    ax.set_xlim(x[0], x[-1])
    if len(scored) <= 4:
        ax.legend(handles, labels, loc="lower left" if metric == "SR" else "lower right")
    else:
        _legend_below(figure, handles, labels)
    return figure


def _short(name: str) -> str:
    """A name as it can be shown: not too long, and no formula."""
    return (name if len(name) <= 30 else name[:29] + "…").replace("$", r"\$")


def _legend_below(figure: plt.Figure, handles: list, labels: list[str]) -> None:
    columns = 2 if max(map(len, labels)) > 16 else 4
    rows = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * rows)
    figure.legend(handles, labels, loc="outside lower center", ncol=columns)


def _best_first(scored: Mapping[str, Scores], metric: str) -> list[tuple[int, str]]:
    """Trackers with their places in the order given, sorted by a score."""
    return sorted(enumerate(scored), key=lambda item: -scored[item[1]].mean(metric))


def _attributes(table: list[Mapping], trackers: list[str], what: str) -> plt.Figure:
    """A row of dots an attribute, a column a metric."""
    subsets = list(dict.fromkeys(row["subset"] for row in table))
    counts = {row["subset"]: row["n_sequences"] for row in table}
    height = 1.2 + 0.22 * len(subsets) * (1 + 0.3 * len(trackers))
    figure, axes = plt.subplots(1, len(METRICS), figsize=(8.0, height), sharey=True)
    y = np.arange(len(subsets))[::-1]
    handles: list = []
    far = min(0.32, 0.1 * (len(trackers) - 1))
    shifts = np.linspace(far, -far, len(trackers))
    for ax, metric in zip(axes, METRICS, strict=True):
        for i, (tracker, shift) in enumerate(zip(trackers, shifts, strict=True)):
            rows = [r for r in table if r["tracker"] == tracker and r["metric"] == metric]
            value, low, high = (np.array([r[c] for r in rows]) for c in ("value", "low", "high"))
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            ax.hlines(y + shift, low, high, color=color, linewidth=1.2)
            dots = ax.plot(value, y + shift, marker, color=color, markersize=3.5)
            handles += dots if ax is axes[0] else []
        ax.set(title=metric, xlabel="percent")
        ax.grid(axis="y", visible=False)
    axes[0].set(yticks=y, yticklabels=[f"{name} ({counts[name]})" for name in subsets])
    axes[0].set_ylim(-0.6, len(subsets) - 0.4)
    title = f"Scores by attribute on {what}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    if len(trackers) > 1:
        _legend_below(figure, handles, [_short(tracker) for tracker in trackers])
    return figure


def _save(figure: plt.Figure, path: Path) -> list[Path]:
    files = []
    for ending, more in ((".png", {"dpi": 160}), (".svg", {"metadata": {"Date": None}})):
        files.append(path.with_name(path.name + ending))
        with atomic_write(files[-1], "wb") as file:
            figure.savefig(file, format=ending[1:], **more)
    plt.close(figure)
    return files
