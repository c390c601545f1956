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


def lines(ax: plt.Axes, x, curves: Mapping, xlabel: str, ylabel: str, title: str = "", **style) -> None:
    """Draws named curves over a common x, each in its own colour, with a legend if there are several."""
    for name, y in curves.items():
        ax.plot(x, y, label=name, color=COLORS.get(name), **style)
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


def gains(table) -> plt.Figure:
    """Returns printed gains over a baseline, a row for each benchmark and metric; columns of `table`: benchmark, metric, method, gain."""
    figure, ax = plt.subplots(figsize=(6.4, 2.7))
    places = list(dict.fromkeys(zip(table["benchmark"], table["metric"], strict=True)))
    for shift, (method, part) in zip((0.2, 0, -0.2), table.groupby("method", sort=False), strict=True):
        y = [shift - places.index(place) for place in zip(part["benchmark"], part["metric"], strict=True)]
        ax.plot(part["gain"], y, "o", color=COLORS[method], label=method)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set(yticks=[-i for i in range(len(places))], yticklabels=[" ".join(p) for p in places])
    ax.set(xlabel="gain over the Siamese baseline / points (printed; no interval was)")
    ax.set_title("The paper's central table: one training run a row")
    ax.legend()
    return figure


# --- 01: the noise schedule ------------------------------------------------------------------------------------------------------------


def schedules(named: Mapping) -> plt.Figure:
    """Returns alpha_bar and the signal-to-noise ratio over t of several `gmmt.schedule.Schedule`."""
    figure, axes = plt.subplots(1, 2)
    for (name, schedule), color in zip(named.items(), (COLORS["DM"], "0.45"), strict=False):
        axes[0].plot(schedule.alpha_bar, color=color, label=name)
        axes[1].plot(schedule.snr(), color=color, label=name)
    axes[0].set(xlabel="step t", ylabel=r"$\bar\alpha_t$", title="Signal left")
    axes[1].set(xlabel="step t", ylabel="signal / noise (variance)", title="Signal to noise: thirteen decades", yscale="log")
    axes[0].legend()
    return figure


def spectrum(power, floors: Mapping[str, float]) -> plt.Figure:
    """Returns the power [F] of a feature map at 1..F cycles per map, cut by the named noise floors."""
    figure, ax = plt.subplots(figsize=(5, 2.9))
    lines(
        ax,
        range(1, len(power) + 1),
        {"TIR": power},
        "spatial frequency / cycles per map",
        "power",
        "Noise drowns fine detail first",
        marker="o",
    )
    for name, floor in floors.items():
        ax.axhline(floor, color="0.5", linestyle="--", linewidth=0.9)
        ax.text(len(power), floor, name, va="bottom", ha="right", fontsize=8)
    ax.set(yscale="log", ylim=(0.02, float(power.max()) * 3))
    return figure


def half_blind(table) -> plt.Figure:
    """Returns the error of each method on seen and on hidden scenes; columns of `table`: method, scenes, value, low, high, n."""
    figure, axes = plt.subplots(1, 2)
    for ax, (which, part) in zip(axes, table.groupby("scenes", sort=False), strict=True):
        colors = [COLORS[name.split(",")[0]] for name in part["method"]]
        title = f"Disc {which} (n = {part['n'].iloc[0]})"
        forest(ax, list(part["method"]), list(part.itertuples()), f"mean squared error, {INTERVAL}", title, colors)
        ax.set_xlim(left=0)
    twice = 2 * table.query("method == 'RAW' and scenes == 'hidden'")["value"].item()
    axes[1].axvline(twice, color="0.4", linestyle=":")
    axes[1].text(twice, table["method"].nunique() - 0.55, "twice RAW ", ha="right", va="center", fontsize=8)
    return figure


# --- 10 and 11: scores -----------------------------------------------------------------------------------------------------------------


def one_sequence(name: str, tracker: str, boxes: np.ndarray, truth: Sequence[np.ndarray], error: Mapping, overlap: Mapping) -> plt.Figure:
    """Returns the path of boxes [n, 4] and of both annotations through the image (from a dot), with error and overlap [n] over time."""
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), width_ratios=[1.4, 1, 1])
    for label, b in {"RGB": truth[0], "TIR": truth[1], tracker: boxes}.items():
        color = COLORS.get(label, "0.4")
        x, y = (b[:, :2] + b[:, 2:] / 2).T
        axes[0].plot(x, y, color=color, label=label, linewidth=1.2, marker="o", markersize=3, markevery=[0])
        for left, top, w, h in b[:: len(b) // 3 - 1]:
            axes[0].add_patch(plt.Rectangle((left, top), w, h, fill=False, edgecolor=color, linewidth=0.8))
    axes[0].set(xlabel="x / px", ylabel="y / px", title=f"{name}: {len(boxes)} frames", aspect="equal")
    axes[0].invert_yaxis()
    axes[0].legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncol=3, columnspacing=0.8)
    lines(axes[1], range(len(boxes)), error, "frame", "centre error / px", "close enough?", linewidth=1)
    axes[1].set_yscale("symlog", linthresh=5)
    axes[1].set_yticks([0, 5, 15, 50, 150], ["0", "5", "15", "50", "150"])
    axes[1].set_ylim(bottom=0)
    lines(axes[2], range(len(boxes)), overlap, "frame", "overlap (IoU)", "covered?", linewidth=1)
    for ax, threshold in ((axes[1], 5), (axes[2], 0.5)):
        ax.axhline(threshold, color="0.4", linestyle="--", linewidth=0.9)
    return figure


def curves(precision: tuple, success: tuple, pr: float, sr: float, at: float) -> plt.Figure:
    """Returns a precision and a success curve, each (thresholds [T], shares [T]), with PR read off at `at` pixels and SR as area."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.5))
    lines(axes[0], precision[0], {"DM": precision[1]}, "threshold / px", "share of frames", f"PR at {at:g} px: {100 * pr:.1f} %")
    axes[0].axvline(at, color="0.4", linestyle="--", linewidth=0.9)
    lines(axes[1], success[0], {"DM": success[1]}, "overlap threshold", "share of frames", f"SR, the area: {100 * sr:.1f} %")
    axes[1].fill_between(*success, color=COLORS["DM"], alpha=0.2, linewidth=0)
    for ax in axes:
        ax.set_ylim(0, 1.03)
    return figure


def printed_scores(names: Sequence[str], estimates: Sequence, printed: Sequence[float], colors: Sequence[str]) -> plt.Figure:
    """Returns recomputed scores with intervals beside the printed ones."""
    figure, ax = plt.subplots(figsize=(7, 3.2))
    forest(ax, names, estimates, "percent", "Printed numbers, recomputed", colors, printed)
    return figure


def attributes(names: Sequence[str], estimates: Mapping[str, Sequence], printed: Mapping[str, Sequence[float]]) -> plt.Figure:
    """Returns a panel for each metric, with a row for each attribute."""
    figure, axes = plt.subplots(1, len(estimates), figsize=(7, 2.9), sharey=True)
    for ax, metric in zip(axes, estimates, strict=True):
        forest(ax, names, estimates[metric], f"{metric} / %", f"GTOT: {metric}", printed=printed[metric])
        ax.get_legend().remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    return figure


def divisors(rows: Sequence[tuple[str, str, float, float]]) -> plt.Figure:
    """Returns a panel for each (tracker, metric, sum over sequences, printed value): sum / n, and where it meets the printed value."""
    figure, axes = plt.subplots(1, len(rows), figsize=(7.2, 2.3))
    n = np.arange(230, 239)
    for ax, (tracker, metric, total, text) in zip(axes, rows, strict=True):
        ax.axhspan(text - 0.05, text + 0.05, color="0.85")
        ax.plot(n, total / n, "o-", color=COLORS[tracker], markersize=3.5)
        ax.set(title=f"{tracker} {metric}", xlabel="sum divided by", xticks=[230, 235])
    axes[0].set_ylabel("percent")
    return figure


def differences(d: np.ndarray, estimate, better: str, other: str) -> plt.Figure:
    """Returns the differences d [S] of two trackers, sorted, with their mean."""
    figure, ax = plt.subplots(figsize=(7, 2.4))
    d = np.sort(d)
    ax.bar(range(len(d)), d, width=1, color=np.where(d > 0, COLORS[better], COLORS[other]))
    ax.axhline(estimate.value, color="black", linewidth=1)
    ax.text(0, estimate.value + 3, f"mean {estimate.value:+.1f}, {INTERVAL} [{estimate.low:+.1f}, {estimate.high:+.1f}]", fontsize=8)
    ax.set(xlabel=f"sequence, sorted ({(d < 0).sum()} of {len(d)} favour {other})", ylabel="difference in SR / points")
    ax.set_title(f"One number hides {len(d)}")
    return figure


def ratios(table, band: tuple[float, float]) -> plt.Figure:
    """Returns Pr / Re of each printed row, methods below each other; columns of `table`: method, ratio, half (what rounding hides)."""
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    y = {method: -i for i, method in enumerate(dict.fromkeys(table["method"]))}
    rows = table["method"].map(y)
    ax.errorbar(table["ratio"], rows, xerr=table["half"], fmt="o", color=COLORS["DM"], markersize=4, linewidth=1)
    ax.axvspan(*band, color="0.88", zorder=0)
    ax.set(yticks=list(y.values()), yticklabels=list(y), xlabel="Pr / Re (bars: what rounding to 0.1 hides)")
    ax.set_title("One narrow band: trackers that report every frame")
    return figure


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
