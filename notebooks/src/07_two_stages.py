# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why two stages, and what learns in each?
#
# **In one sentence:** because $U$ needs a teacher that holds still: the extractors learn first, then the fusion block, then $U$ and a new head; and what stage 2
# seems to gain depends on where stage 1.2 was stopped: in miniature, after a quarter of it a new head *alone* gains 4.6 points; after all of it, nothing we can see.
#
# Paper: "Multi-Modal Trackers", Eq. (5); supplement, Sec. C and its Table 2. Runs about 30 s (smoke); cpu, one thread: 20 min,
# 7 min where the rows of section 5 are trained already, 1 min where all is. Read before this: [05](05_three_losses.ipynb), three losses, [06](06_trackers.ipynb), the tracker.

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
batches: int = 48

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from gmmt import notebook, plot

run = notebook.start("07_two_stages", profile=profile, seed=seed, batches=batches)

# %% [markdown]
# ## The idea
#
# A **tracker** is shown a target in the first frame and must find it in every later one. Ours cuts a **template** out of the first frame and a
# **search patch** out of the current one; an **extractor** makes features of both; a **head** compares them and says where the target is.
# GMMT's network $U$ is to *generate* a tracker's fused features. So there must be a tracker first, and it must hold still while $U$ learns.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $f_{rgb}, f_{tir}$ | `f_rgb`, `f_tir` | (B, C, H, W) | features of each modality |
# | $fused$ | `fused` | (B, C, H, W) | the fusion block's output: what $U$ learns to make |
# | $fused^*$ | `fused_star` | (B, C, H, W) | what $U$ makes |
# | $Loss_{track}$ | `cls` + `loc` | | the head's: is a point on the target; where is the box |
# | $Loss_{gen}$ | `raw`, `dm` | | distance of $fused^*$ to $fused$ ([05](05_three_losses.ipynb)) |
# | $\lambda$ | `lam` | | weight of $Loss_{gen}$, Eq. (5) |
# | | `Plan` | | a stage's steps, pairs in each, learning rate |


# %% alt="Four diagrams. Stage 1.1, once for RGB and once for thermal: extractor and head are coloured. Stage 1.2: both extractors are grey, fusion block and a head are coloured, the two heads of 1.1 are dashed. Stage 2: extractors and fusion block are grey and give fused; network U and a new head are coloured; U's output fused* is compared with fused and read by the new head; the head of 1.2 is dashed"
def draw(ax, title, arrows, boxes):
    """Draws boxes "name x y colour text" and arrows; grey: frozen, dashed: thrown away."""
    at = {}
    for name, x, y, ink, text in (box.split(maxsplit=4) for box in boxes.split("; ")):
        edge = "none" if ink == "-" else plot.COLORS.get(ink, "0.6")
        face = {"-": "none", "gone": "none", "frozen": "0.87"}.get(ink) or edge + "55"
        look = {"boxstyle": "round", "fc": face, "ec": edge, "ls": "--" if ink == "gone" else "-"}
        at[name] = ax.text(float(x), float(y), text, ha="center", va="center", size=8, bbox=look)
    for a, b in (map(at.get, pair) for pair in arrows.split()):
        ends = {"patchA": a.get_bbox_patch(), "patchB": b.get_bbox_patch(), "arrowstyle": "-|>"}
        ax.annotate("", b.get_position(), a.get_position(), arrowprops=ends)
    ax.set(xlim=(0, 10), ylim=(-0.4, 2.4), title=title, xticks=[], yticks=[], frame_on=False)


_, axes = plt.subplot_mosaic("RT;22;33", figsize=(7, 4.6), height_ratios=[1, 2, 2])
one, last = "p .6 1 - {0}; e 3.2 1 {0} extractor; h 6.2 1 {0} head; l 9.1 1", " - $Loss_{track}$"
for m in ("RGB", "TIR"):
    draw(axes[m[0]], f"Stage 1.1, {m}", "pe eh hl", one.format(m) + last)
two = "p .3 2 - RGB; q .3 0 - TIR; e 1.7 2 frozen extractor; g 1.7 0 frozen extractor; "
join = "f 4.2 1 fused fusion block; x 4.2 2 gone head RGB; y 4.2 0 gone head TIR; "
draw(axes["2"], "Stage 1.2", "pe qg ef gf fh hl", two + join + "h 7 1 fused head; l 9.5 1" + last)
two += "f 4 2 frozen fusion block; U 4 0 DM network $U$; a 6 2 - $fused$; b 6 0 - $fused^*$; "
two += "c 6 1 - $Loss_{gen}$; x 7.7 2 gone head of 1.2; h 7.7 0 fused new head; l 9.5 0" + last
draw(axes["3"], "Stage 2", "pe qg ef gf eU gU fa Ub ac bc bh hl", two)
plt.show()

# %% [markdown]
# **What to see.** Coloured boxes learn, grey ones are **frozen** (used, never changed), dashed ones are thrown away. *1.1*: each camera gets a
# tracker of its own. *1.2*: the extractors stay; a **fusion block** (one convolution) learns to join their features, under a head of its own.
# *2*: the fusion block becomes a teacher. $U$ sees what it sees and learns to give what it gives; a new head learns to read $U$'s version:
#
# $$Loss = Loss_{track} + \lambda\, Loss_{gen} \qquad \text{(Eq. 5)}$$
#
# (A CGAN's discriminator learns here, too.) At test, $U$ stands in for the fusion block on the search patch. What then fuses the *template*,
# the paper does not say; ours leaves it to the frozen block.
#
# Freezing gives $U$ a target that holds still. It also means that stage 2 inherits whatever stage 1.2 left undone: sections 6 and 7.

# %% [markdown]
# ## 1. One training pair
#
# A tracker is not trained on whole videos but on **pairs** of frames of one video: a template of 32 x 32 pixels and a search patch of 64 x 64, cut as at test
# ([06](06_trackers.ipynb)): for a target of $w \times h$ the template's side is $A = \sqrt{(w + m)(h + m)}$ with $m = (w + h)/2$, the search patch's is $2A$.
#
# At test the target has moved since the patch was centred on it. So in training the search patch is **jittered**: moved by up to a quarter of its side
# in $x$ and $y$, its side changed by up to 18 %; the template's by 3 % and 5 %. One pair in five is **negative**: its search patch is of another video. There
# is nothing to find, and the head must learn to say so. All these numbers are SiamBAN's (Chen et al., 2020), the tracker that the paper's Siamese one
# is made of.


# %%
def naive_box(pool, draw, n, i):
    """Returns where the target of pair i is in its search patch: x1, y1, x2, y2 from the middle."""
    rng, (videos, frames) = np.random.default_rng(draw), pool.boxes.shape[:2]
    which, at = rng.integers(0, videos, (2, n)), rng.integers(0, frames, (2, n))
    negative = rng.random(n)[i] < pool.data.negative
    moved = rng.uniform(-1, 1, (2, n, 2))[1, i]
    scaled = rng.uniform(-1, 1, (2, n, 1))[1, i, 0]
    if negative and which[0, i] != which[1, i]:
        return [np.nan] * 4
    _, _, w, h = pool.boxes[which[0, i], at[1, i]].tolist()
    m = (w + h) / 2
    side = 2 * ((w + m) * (h + m)) ** 0.5 * (1 + 0.18 * scaled)  # in pixels of the frame
    x, y = -moved * 0.25 * 64  # the patch moved one way, so the target is the other way
    w, h = w * 64 / side, h * 64 / side
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


# %% tags=["nbval-check-output"]
from gmmt.config import Data
from gmmt.data import synthetic
from gmmt.data.pairs import Pairs
from gmmt.trackers.siamese import Siamese

videos, at, crops = synthetic.benchmark("train", 8, 48), [0, 16, 32], Siamese().crops
images = np.stack([[v.frame(i) for i in at] for v in videos])
pool = Pairs(images, np.stack([v.boxes[at] for v in videos]), crops, Data())
_, _, boxes = pool.batch(64, (0, 0, 0))
naive = torch.tensor([naive_box(pool, (0, 0, 0), 64, i) for i in range(64)]).float()
torch.testing.assert_close(naive, boxes, equal_nan=True, atol=1e-3, rtol=1e-4)
print(f"64 boxes: naive = gmmt; {int(boxes.isnan().any(1).sum())} pairs are negative")

# Paint targets white on black: the white part of a patch must be as wide and high as its box.
white, corners = torch.zeros_like(pool.frames), pool.boxes.round().int()
for frame, (x, y, w, h) in zip(white.flatten(0, 1), corners.flatten(0, 1).tolist(), strict=True):
    frame[:, y : y + h, x : x + w] = 255
painted = Pairs(white.numpy(), corners.numpy(), crops, Data())
_, search, boxes = painted.batch(64, (0, 0, 0))
keep = ~boxes.isnan().any(1)
seen = torch.stack([(search[keep, 0].amax(k) > 127).sum(1) for k in (1, 2)], 1)
assert (seen - (boxes[keep, 2:] - boxes[keep, :2])).abs().max() < 1
print("painted targets are as wide and high as their boxes, to less than a pixel of the patch")

# %% alt="Six training pairs in columns, four positive and two negative. Rows: template in RGB and in thermal, search patch in RGB with the target's box, search patch in thermal with dots: green dots in the middle of the target, yellow ones around them, small grey ones elsewhere; on negative pairs all dots are grey"
from gmmt.trackers.heads import labels, points

template, search, boxes = pool.batch(64, (seed, 0, 1))
lost = boxes.isnan().any(1)
show = torch.cat([(~lost).nonzero()[:4, 0], lost.nonzero()[:2, 0]]).tolist()
rows = [[(v[i, :3].permute(1, 2, 0) / 255).clamp(0, 1) for i in show] for v in (template, search)]
rows += [[v[i, 3] / 255 for i in show] for v in (template, search)]
names = ["negative" if lost[i] else "positive" for i in show]
left = ["template,\nRGB", "search\npatch, RGB", "template,\nTIR", "search\npatch, TIR"]
title = "What a training step sees, and what the head is told"
figure = plot.image_grid(rows, names, left, title, (0, 1), width=5.6)
target, background = labels(boxes, 11, 4)
for k, i in enumerate(show):
    x, y = points(11, 4).flatten(1) + 31.5
    rgb, tir = (figure.axes[row * len(show) + k] for row in (1, 3))
    if not lost[i]:
        (a, b, c, d), white = (boxes[i] + 31.5).tolist(), {"fill": False, "ec": "white"}
        rgb.add_patch(plt.Rectangle((a, b), c - a, d - b, **white))
    for mask, color, s in ((background, "0.7", 2), (target, plot.COLORS["fused"], 12)):
        tir.scatter(x[mask[i].flatten()], y[mask[i].flatten()], s, color)
    neither = ~(target | background)[i].flatten()
    tir.scatter(x[neither], y[neither], 6, plot.COLORS["CGAN"])
plt.show()

# %% [markdown]
# **What to see.** The target may stand anywhere in the middle half of the search patch: where it is must be found, not learned by heart. Some pairs are hard
# on purpose (dark, noisy, half covered). Dots (fourth row) are the 11 x 11 places at which the head answers. **Green**: on the target; the answer
# should be yes, and the box that the head draws from there is compared with the true one. **Grey**: background, should be no. **Yellow**, between: not
# asked. A negative pair is grey throughout.
#
# $Loss_{track}$ is `cls` + `loc`. *cls*: cross-entropy of the yes-or-no answers, green and grey each half of it. *loc*: $1 - IoU$ on green places;
# **IoU** is how well two boxes overlap, intersection over union.
#
# Where ours is not SiamBAN's: there, colour and sharpness vary, too, and a negative pair is asked only *on the other target* (at most 16 places).

# %% [markdown]
# ## 2. Frozen means frozen
#
# What learns can be written as a list of names. There are two ways to break it, and one is easily overlooked. A **parameter** moves if it gets a
# gradient. A **buffer** moves without any: a *batch norm* keeps a running mean and variance of what it has seen, and in training mode it
# updates them at every look. A "frozen" extractor in training mode drifts, and $fused$ would depend on which images share a batch. So what is frozen
# must be in *evaluation mode*, too.
#
# The check: two steps of each stage on the small pool. The list of names below, the one that `gmmt` saves in checkpoints
# (`Stage.trained`), and the tensors that did move must be the same.

# %%
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet

LEARNS = {f"1.1 {m}": (f"backbone.{m}.", f"neck.{m}.", f"head.{m}.") for m in ("rgb", "tir")}
LEARNS |= {"1.2": ("fuse.", "head.base."), "2": ("fusion.", "head.stage2.")}


def tiny(stage):
    """Returns a tracker with its first weights; in stage 2 with a small U."""
    torch.manual_seed(0)
    tracker = Siamese()
    if stage == "2":
        tracker.fusion = make_fusion("DM", UNet(32, 3, inner=8, groups=4), 32, track_t="last")
    return tracker


def state(tracker):
    """Returns a copy of all parameters and buffers."""
    return {name: v.clone() for name, v in tracker.state_dict().items()}


def differ(a, b):
    """Returns the names of the tensors in which two states differ."""
    return {name for name in a if not torch.equal(a[name], b[name])}


# %% tags=["nbval-check-output"]
from pathlib import Path
from tempfile import TemporaryDirectory

from gmmt.config import Plan
from gmmt.training import Stage, fit

for stage, prefixes in LEARNS.items():
    tracker = tiny(stage)
    before = state(tracker)
    with TemporaryDirectory() as folder:
        path = Path(folder, "tiny.safetensors")
        fit(Stage(tracker, stage, Plan(steps=2, batch=4)), pool, path, seed=0, config={})
    moved, naive = differ(before, state(tracker)), {k for k in before if k.startswith(prefixes)}
    assert set(Stage(tracker, stage, Plan(steps=2)).trained()) == naive
    assert moved == naive - {"fusion.mean", "fusion.std"}  # constants, set before the first step
    buffers = moved & {name for name, _ in tracker.named_buffers()}
    print(f"stage {stage:7s} {len(moved):3d} of {len(before)} moved, {len(buffers)} are buffers")

tracker, before = tiny("1.2"), state(tiny("1.2"))
with torch.no_grad():
    tracker.train().features(pool.batch(4, (0, 0, 0))[1])
drift = differ(before, state(tracker))
assert all("running" in name or "num_batches" in name for name in drift)
print(f"one look in training mode, without a gradient: {len(drift)} buffers moved")


# %% [markdown]
# Naive list, saved list, and what moved: the same in each stage. (`fusion.mean` and `.std` are the constants by which features are standardised for
# $U$.) The last line is the trap: a single forward pass in training mode, no gradient anywhere, and every batch norm of the extractors is
# another one.
#
# ## 3. How fast: the plan of a stage
#
# The **learning rate** is the length of a step. The supplement's Table 2 gives it by end points: *stage 1: epochs 1-5 from 0.001 to 0.005, epochs 6-20
# to 0.00005; stage 2: 1-20 and 21-100*. (An **epoch**: one pass over the data, or a fixed number of pairs.) A slow start lets the new, random parts settle; a slow end
# averages out the noise of single batches. Ours rises evenly and then falls by the same *factor* at each step; `Plan.rate_at` has the closed form,
# the next cell walks there step by step.


# %% tags=["nbval-check-output"]
def naive_rates(epochs, warm, per_epoch):
    """The supplement's plan: an even rise from 0.001 to 0.005, then equal factors to 0.00005."""
    steps, ramp = epochs * per_epoch, warm * per_epoch
    rate, rates = 0.001, []
    for k in range(steps):
        rates.append(rate)
        rate = rate + 0.004 / ramp if k < ramp else rate * 0.01 ** (1 / (steps - ramp - 1))
    return rates


supplement = {}
for stage, epochs, warm in (("1.1", 20, 5), ("1.2", 20, 5), ("2", 100, 20)):
    shape = {"rate": 0.005, "warmup": warm / epochs, "first": 0.2, "last": 0.01}
    plan = Plan(steps=100 * epochs, **shape)  # as if an epoch had 100 steps
    supplement[stage], ours = plan, [plan.rate_at(k) for k in range(plan.steps)]
    np.testing.assert_allclose(ours, naive_rates(epochs, warm, 100), rtol=1e-9)
    ends = f"{ours[0]:.3f}, {ours[100 * warm]:.3f}, {ours[-1]:.5f}"
    print(f"stage {stage}: first, highest, last rate {ends}: naive = gmmt")

# %% alt="Two panels of learning rate on a log scale. Left, the supplement: both plans rise from 0.001 to 0.005 and fall along a line to 0.00005, over 20 or 100 epochs; the staircase of SiamBAN's own code follows the first. Right, ours: the same shape over the profile's steps, with a peak of 0.002 in stage 1.1, of 0.004 in stage 1.2 and of 0.002 in stage 2"
from gmmt.study import miniature

plans = miniature.config("DM", run.profile).plans
plans = {"1.1": plans["1.1 rgb"], "1.2": plans["1.2"], "2": plans["2"]}
fig, axes = plt.subplots(1, 2, figsize=(7, 2.7))
looks = {"1.1": ("0.3", "-"), "1.2": (plot.COLORS["fused"], "--"), "2": (plot.COLORS["DM"], "-")}
for stage, (color, line) in looks.items():
    for ax, plan, unit in ((axes[0], supplement[stage], 100), (axes[1], plans[stage], 1)):
        k = np.arange(plan.steps)
        rate = [plan.rate_at(i) for i in k]
        ax.plot(k / unit, rate, line, color=color, lw=1.4, label=f"stage {stage}")
stairs = np.append(0.001 * 5 ** (np.arange(5) / 5), np.geomspace(0.005, 0.00005, 15))
axes[0].step(np.arange(20), stairs, color=plot.COLORS["CGAN"], lw=1, where="post")
axes[0].plot([], [], color=plot.COLORS["CGAN"], lw=1, label="SiamBAN's own code")
names = ("Supplement: SGD, in epochs", "Ours: AdamW, in steps")
for ax, title, unit in zip(axes, names, ("epoch", "step"), strict=True):
    ax.set(title=title, xlabel=unit, ylabel="learning rate", yscale="log")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
plt.show()
print("stage  steps  pairs in a step  pairs in all  highest rate")
for stage, plan in plans.items():
    n = plan.steps * plan.batch
    print(f"{stage:5s}  {plan.steps:5d}  {plan.batch:15d}  {n:12d}  {plan.rate:12}")


# %% [markdown]
# **What to see.** Left, stages 1.1 and 1.2 have one plan. SiamBAN's own code has the same end points and moves in stairs, once an epoch; the
# supplement gives the end points only. Right, **we deviate, plainly**: AdamW (it scales each parameter's step by the usual size of its gradient, and
# needs fewer steps), not SGD with momentum; steps, not epochs; 16 pairs, not 8; other rates; small extractors with random first
# weights. And far less of everything: 25,600 pairs in stage 1.2; an epoch of SiamBAN's own setting has a million (GMMT's is not said).
#
# ## 4. Killed and resumed
#
# All that a step draws (frames, jitter, noise, $t$) depends on *(seed, stage, step)* alone. So weights, the optimiser's
# memory and the number of steps done are enough to go on to **the very same weights**. The next cell kills stage 2 twice; every second
# step writes a checkpoint.


# %% tags=["nbval-check-output"]
class Killed:
    """A pool that breaks off the run at a step."""

    def __init__(self, stop):
        self.stop = stop

    def batches(self, key, first, last, *rest):
        yield from pool.batches(key, first, last if self.stop is None else self.stop, *rest)
        if self.stop is not None:
            raise KeyboardInterrupt


ends, often = [], {"seed": 0, "config": {}, "check_every": 2, "save_seconds": 0}
with TemporaryDirectory() as folder:
    for kills in ([], [3, 5]):
        path = Path(folder, f"{len(kills)}.safetensors")
        for stop in [*kills, None]:
            stage = Stage(tiny("2"), "2", Plan(steps=7, batch=4))  # as a new process begins
            try:
                history = fit(stage, Killed(stop), path, **often)
            except KeyboardInterrupt:
                print(f"killed at step {stop}")
        ends.append((state(stage.tracker), history))
assert not differ(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
print("undisturbed or killed twice: the same weights and the same curves, to the last bit")

# %% [markdown]
# Killed before step 3 (counted from 0), the run goes back to its last checkpoint and does step 2 again, with the same draws; killed before step 5, step 4. The
# price: a checkpoint holds two running means for each parameter (AdamW's memory), so it is three times as large as the weights. (Another machine, or
# another number of threads, adds in another order, and the last bits differ; that has nothing to do with resuming.)
#
# ## 5. What the losses do
#
# Now the miniature itself: drawn video in which targets move as real ones did ([06](06_trackers.ipynb)), trained for the profile's steps. **HEAD** is a control of
# ours, section 7.
#
# | row | last stage | what |
# |---|---|---|
# | RGB, TIR | 1.1 | one camera |
# | Base | 1.2 | both, fused by one convolution |
# | HEAD | 2 | no $U$: only the new head, on Base's $fused$ |
# | RAW, DM | 2 | $U$ by regression, by diffusion; $\lambda = 1$ |


# %%
from gmmt.experiment import make_pairs


def get(name, **options):
    """Returns a row of the miniature: loaded if it was trained before, else trained."""
    options["progress"] = run.profile != "smoke"
    return miniature.train(name, run.profile, seed, run.trackers, **options)


def success(t):
    """Returns a row's scores on the validation videos."""
    return miniature.scores(t, "val")[0]


rows = {name: get(name) for name in ("RGB", "TIR", "Base", "HEAD", "RAW", "DM")}
pairs = make_pairs(rows["DM"].config, rows["DM"].tracker)
STAGE = {"RGB": "1.1 rgb", "TIR": "1.1 tir", "Base": "1.2"}
COLORS = plot.COLORS | {"Base": plot.COLORS["fused"], "HEAD": "0.5"}

# %% alt="Five panels of smoothed losses over training steps. Upper row, stage 1: cls and loc of RGB, TIR and Base; lower row, stage 2: cls and loc of HEAD, RAW and DM, and the generative loss of RAW and DM on a log scale"
import pandas as pd

width, late = run.pick(smoke=3, cpu=50), []
fig, axes = plt.subplots(2, 3, figsize=(7.2, 4.2))
for name, t in rows.items():
    curves, row = t.curves[STAGE.get(name, "2")], axes[int(name not in STAGE)]
    for term in [k for k in curves if k != "loss"]:
        y = np.convolve(curves[term], np.ones(width) / width, "valid")
        ax = row[{"cls": 0, "loc": 1}.get(term, 2)]
        ax.plot(np.arange(len(y)) + width / 2, y, color=COLORS[name], label=name, lw=1.2)
        late.append({"row": name, "term": term, "late": y[-1]})
for row, stage in zip(axes, ("1", "2"), strict=True):
    for ax, title in zip(row, ("cls", "loc", "generative"), strict=True):
        ax.set(title=f"{title}, stage {stage}", xlabel="step", yscale="log")
for k, ticks in enumerate(([0.1, 0.2, 0.5], [0.2, 0.3, 0.4])):
    axes[1, k].sharey(axes[0, k])
    axes[0, k].set_yticks(ticks, map(str, ticks))
    axes[0, k].minorticks_off(), axes[1, k].minorticks_off()
axes[0, 2].set_title("")
axes[0, 2].axis("off")
axes[0, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="center left", title="stage 1")
axes[1, 0].legend(title="stage 2")
plt.show()
table = pd.DataFrame(late).pivot_table(index="row", columns="term", values="late", sort=False)
print(f"mean of the last {width} steps\n{table.round(3).to_string(na_rep='-')}")

# %% [markdown]
# **What to see** (one run each). *Stage 1*: thermal is easier to learn from than RGB; both together are easier than either. *cls*, telling the target
# from what is like it, gains most (0.09 against 0.19 and 0.22).
#
# *Stage 2* starts from above again: all that the head of 1.2 knew has been thrown away, and some 500 steps go by until *cls* is back at 0.1. HEAD, RAW and DM
# see the same batches, and their curves nearly coincide. At the end those with a $U$ have a slightly lower *cls* (0.082 and 0.076; HEAD 0.088);
# *loc* hardly differs. These are losses on training pairs: fitting better is not yet tracking better.
#
# The generative loss falls more than tenfold. DM's is below RAW's, which is no merit: at most $t$ its input shows part of the answer
# ([01](01_noise_schedule.ipynb)).

# %% [markdown]
# ## 6. Is Base at its plateau?
#
# A baseline that was stopped early makes everything that is trained after it look good. So: the same stage 1.1, and stage 1.2 anew, from the same first
# weights, for a quarter to twice the profile's steps. Each run has a whole plan of its own (rise and fall of the rate), so these are four finished
# trainings, not one looked at four times.
#
# The score is the **success rate** SR on the validation videos: the share of frames whose box overlaps the true one by more than a threshold, averaged over
# thresholds from 0 to 1 ([10](10_metrics.ipynb)). Intervals are over videos; those of differences are *paired*: both trackers saw the same.


# %%
steps, factors = plans["1.2"].steps, run.pick(smoke=(0.5, 1), cpu=(0.25, 0.5, 1, 2))


def base_anew(factor):
    """Returns Base with stage 1.2 trained for `factor` times the profile's steps."""
    plan = {"1.2": {"steps": round(factor * steps)}}
    return get("Base", changes={"name": f"Base-x{factor:g}", "plans": plan})


trained_for = [rows["Base"] if f == 1 else base_anew(f) for f in factors]
bases = {len(t.curves["1.2"]["loss"]): t for t in trained_for}

# %% alt="Left: success rate of Base on the validation videos against the steps of stage 1.2, with 95 % intervals, and the single cameras as dashed lines. Right: the paired difference that each doubling of the steps makes, with intervals"
from gmmt import results

score = {name: success(rows[name]) for name in rows} | {t.name: success(t) for t in bases.values()}
fig, axes = plt.subplots(1, 2, figsize=(7.2, 2.9))
found = [results.estimate(score[t.name], "SR") for t in bases.values()]
bars = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
axes[0].errorbar(list(bases), [e.value for e in found], bars, fmt="o-", color=COLORS["Base"])
for name in ("RGB", "TIR"):
    axes[0].axhline(
        100 * score[name].mean("SR"), color=COLORS[name], ls="--", label=f"{name} alone"
    )
axes[0].set(xscale="log", xlabel="steps of stage 1.2", ylabel=f"SR / %, {plot.INTERVAL}")
axes[0].set_title("SR still creeps up")
axes[0].set_xticks(list(bases), list(map(str, bases)))
axes[0].minorticks_off()
axes[0].legend()
k, gains = list(bases), {}
for a, b in [*zip(k[:-1], k[1:], strict=True), *zip(k[1:-2], k[3:], strict=True)]:
    gains[f"{b} - {a}"] = results.difference(score[bases[b].name], score[bases[a].name], "SR")
green, title = [COLORS["Base"]] * len(gains), "Only the first doubling is sure"
xlabel = f"points of SR, paired, {plot.INTERVAL}"
plot.forest(axes[1], list(gains), list(gains.values()), xlabel, title, green)
axes[1].axvline(0, color="0.3", lw=0.8)
plt.show()

# %%
for k, t in bases.items():
    e, late = results.estimate(score[t.name], "SR"), np.mean(t.curves["1.2"]["loss"][-width:])
    print(f"{k:5d} steps: SR {e}, training loss {late:.3f}")
for name, e in gains.items():
    print(f"{name}: {e.value:+.1f} [{e.low:+.1f}, {e.high:+.1f}] (n = {e.n})")
out = [
    {"tracker": t.name, "steps": k, **vars(e)}
    for (k, t), e in zip(bases.items(), found, strict=True)
]
saved = run.save(pd.DataFrame(out), "plateau.csv", source="ours in miniature: SR, validation")

# %% [markdown]
# **What to see** (ours in miniature; 150 validation videos, one training run for each length). From 400 to 800 steps SR gains 4.8 points, interval 3.2 to
# 6.4. The next doublings give 0.4 and 0.7, and neither can be told from 0. But both point up, together they give 1.1 ($-0.8$ to 2.7), and the training loss still falls (0.275, 0.246, 0.237). So
# **that Base at 1600 steps has reached its plateau is not shown**, and what stage 2 gains over it, up to a point or two, might be had by
# training Base longer. Notebook [08](08_table_2.ipynb) therefore has a row for that, *Base-long*, over several trainings.

# %% [markdown]
# ## 7. A new head, trained for longer
#
# The supplement trains stage 1.2's head for 20 epochs and stage 2's *new* head for 100. So "with GMMT against without" compares two things at once: $U$
# against no $U$, and a new head trained five times as long against the old one. The paper has no row that tells them apart. **HEAD** is that row: $U$ left out,
# the new head trained on the frozen $fused$ with stage 2's plan.
#
# We measure it twice: on Base as the profile has it, and on the *shortest* Base of section 6, stopped early on purpose. If a gain shows only on the
# second, it comes from what stage 1.2 left undone.


# %%
def head_on(base):
    """Returns HEAD on a Base of section 6: stage 2 without U."""
    changes = {"name": base.name.replace("Base", "HEAD"), "names": {"1.2": base.name}}
    changes["plans"] = {"1.2": {"steps": base.config.plans["1.2"].steps}}
    return get("HEAD", changes=changes)


short = bases[min(bases)]
short_head = head_on(short)
score[short_head.name] = success(short_head)

# %% alt="Paired differences in success rate with 95 % intervals: the shortest Base with a new head against that Base; Base with a new head against Base; and the latter against the longest Base"
longest, gain = bases[max(bases)], {}
long, more = {t.name: k for k, t in bases.items()}, plans["2"].steps
for new, olds in {"HEAD": ("Base", longest.name), short_head.name: (short.name,)}.items():
    for old in olds:
        label = f"Base {long[new.replace('HEAD', 'Base')]} + head {more}, minus Base {long[old]}"
        gain[label] = results.difference(score[new], score[old], "SR")
fig, ax = plt.subplots(figsize=(7, 2))
xlabel = f"points of SR, paired, {plot.INTERVAL}"
title, grey = "A new head alone gains, if Base was stopped early", ["0.4"] * len(gain)
plot.forest(ax, list(gain), list(gain.values()), xlabel, title, grey)
ax.axvline(0, color="0.3", lw=0.8)
plt.show()
for name in ("Base", "HEAD", longest.name, short.name, short_head.name):
    print(f"{name:10s} SR {results.estimate(score[name], 'SR')}")
for name, e in gain.items():
    print(f"{name}: {e.value:+.1f} [{e.low:+.1f}, {e.high:+.1f}] (n = {e.n})")
out = [{"contrast": name, **vars(e)} for name, e in gain.items()]
saved = run.save(pd.DataFrame(out), "new_head.csv", source="ours in miniature: SR, validation")
gained = "; ".join(f"{name}: {e.value:+.1f}" for name, e in gain.items())
run.headline(f"points of SR: {gained}")

# %% [markdown]
# **What to see** (150 validation videos, one run each). On the Base that was stopped early, a new head **alone**, with nothing generative at all, gains
# 4.6 points (3.1 to 6.2). On the profile's Base it gains nothing that we can see ($-0.9$; $-2.1$ to $+0.3$), and a stage 1.2 of twice the length
# is, if anything, better ($-1.6$; $-3.1$ to $+0.1$). (HEAD follows stage 2's plan, at half the rate of stage 1.2, as RAW and DM do.)
#
# More training helps while something is left to learn, under whatever name. Whether the paper's Base had something left after 20 epochs cannot be told from
# what was published: without the row HEAD, its gains may be $U$'s, the head's, or both.

# %% [markdown]
# ## 8. Who pulls U, and how hard?
#
# In stage 2 $U$ hears two voices, $\nabla Loss_{track}$ (through the new head) and $\lambda \nabla Loss_{gen}$; the head hears the first only. $\lambda$
# says how loud the second is, but its value alone means nothing: that depends on how long the two **gradients** are, and on the angle between
# them. With $g$ for the gradients with respect to $U$'s parameters,
#
# $$g = g_{track} + \lambda\, g_{gen}, \qquad \cos = \frac{g_{track} \cdot g_{gen}}{\lVert g_{track} \rVert \lVert g_{gen} \rVert}, \qquad
# \lambda_{bal} = \frac{\lVert g_{track} \rVert}{\lVert g_{gen} \rVert}$$
#
# At $\lambda_{bal}$ both pull equally hard. A cosine near 0 means that they care about different things, a negative one that they disagree.
#
# The gradient of one batch is that of all data plus **noise**, and noise has a length, too. A way around it: the dot product of gradients
# of two *different* batches. Their noises are independent and average out, so the mean of such products, over all pairs of batches, tells the
# squared length (or the dot product) that *all data* would give.


# %% tags=["nbval-check-output"]
from gmmt.draws import Draws


def gradients(stage, batch, draw):
    """Returns g_track and g_gen, the gradients with respect to U's parameters, each as a vector."""
    terms, own = stage(*batch, Draws(draw)), list(stage.tracker.fusion.network.parameters())
    gen = sum(v for k, v in terms.items() if k not in ("cls", "loc", "loss"))
    found = [
        torch.autograd.grad(v, own, retain_graph=True) for v in (terms["cls"] + terms["loc"], gen)
    ]
    return [torch.cat([g.flatten() for g in each]) for each in found]


stage = Stage(tiny("2"), "2", Plan(steps=1, lam=3.0))
batch = pool.batch(8, (0, 3, 0))
g_track, g_gen = gradients(stage, batch, 0)
stage(*batch, Draws(0))["loss"].backward()
whole = torch.cat([p.grad.flatten() for p in stage.tracker.fusion.network.parameters()])
torch.testing.assert_close(g_track + 3.0 * g_gen, whole, rtol=1e-4, atol=1e-6)
stage.zero_grad()
stage(*batch, Draws(0))["dm"].backward()
assert all(p.grad is None for p in stage.tracker.head.parameters())
print("gradient of the whole loss = g_track + lam g_gen; the head hears nothing of Loss_gen")


# %% tags=["nbval-check-output"]
def different(dots):
    """Returns the mean dot product of different batches, from all dot products [n, n]."""
    n = len(dots)
    return (dots.sum() - dots.trace()) / (n * (n - 1))


def measure(tt, gg, tg):
    """Returns lengths, cosine and balance from |g_track|^2, |g_gen|^2 and g_track . g_gen."""
    a, b = abs(tt) ** 0.5, abs(gg) ** 0.5
    return {"g_track": a, "g_gen": b, "cosine": tg / (a * b), "balance": a / b}


noise = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0)).double()
g = 0.1 + noise  # true length: 0.1 sqrt(5000) = 7.07
pairs_of = [float(g[i] @ g[j]) for i in range(40) for j in range(40) if i != j]
np.testing.assert_allclose(np.mean(pairs_of), different(g @ g.T), rtol=1e-9)
lengths = g.norm(dim=1).mean(), g.mean(0).norm(), different(g @ g.T) ** 0.5
text = "true length 7.1; one batch: {:.1f}; mean of 40: {:.1f}; products of different ones: {:.1f}"
print(text.format(*lengths))

# %%
from gmmt.provenance import hash_of

n, out = run.pick(smoke=3, cpu=batches), []
for name in ("RAW", "DM"):
    ends = {"start": get(name, changes={"plans": {"2": {"steps": 0}}}), "end": get(name)}
    start, end = (t.tracker.fusion for t in ends.values())
    start.mean, start.std = end.mean, end.std  # the constants of section 2
    for when, stage in ((k, Stage(t.tracker, "2", plans["2"])) for k, t in ends.items()):
        draws = [(pairs.batch(16, (seed, 7, k)), hash_of([seed, "pull", k])) for k in range(n)]
        found = zip(*[gradients(stage, *draw) for draw in draws], strict=True)
        t, g = (torch.stack(v).double() for v in found)
        dots = [t @ t.T, g @ g.T, t @ g.T]
        one = measure(*[d.diagonal() for d in dots])
        rest = [torch.arange(n) != k for k in range(n)]
        without = [measure(*[different(d[r][:, r]) for d in dots]) for r in rest]  # jackknife
        for key, value in measure(*[different(d) for d in dots]).items():
            half = 1.96 * (n - 1) ** 0.5 * np.std([w[key].item() for w in without])
            whole = {"value": value.item(), "low": value.item() - half, "high": value.item() + half}
            each = vars(results.mean_interval(one[key].numpy())) | {"of": "one batch"}
            row = {"row": name, "when": when, "measure": key}
            out += [row | each, row | whole | {"n": n, "of": "all data"}]
pulls = pd.DataFrame(out)
shown = pulls.set_index(["measure", "of", "row", "when"])[["value", "low", "high"]]
print(shown.sort_index(level=[0, 1], sort_remaining=False).round(2).to_string())

# %% alt="Three panels for RAW and DM at the start and the end of stage 2, each with filled marks for single batches and open marks for all data: lengths of both gradients on a log scale, the cosine between them, and the lambda that would balance them, with dotted lines at 1, 3 and 5"
fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), sharey=True)
looks = {"g_track": (0, "0.3", "o"), "g_gen": (0, plot.COLORS["DM"], "s")}
looks |= {"cosine": (1, "0.3", "o"), "balance": (2, "0.3", "o")}
for (key, of), part in pulls.groupby(["measure", "of"], sort=False):
    k, color, mark = looks[key]
    y = np.arange(len(part))[::-1] + (0.13 if of == "one batch" else -0.13)
    face = {} if of == "one batch" else {"mfc": "white"}
    bars = [part.value - part.low, part.high - part.value]
    label = f"${key.replace('g_', 'g_{')}}}$, {of}" if k == 0 else None
    axes[k].errorbar(part.value, y, xerr=bars, fmt=mark, color=color, label=label, ms=4, **face)
axes[0].set(yticks=range(4), yticklabels=(part.row + ", " + part.when)[::-1], xscale="log")
axes[0].set(title="Both fade", xlabel="length of a gradient")
axes[1].set(title="Nearly at right angles", xlabel="cosine")
axes[1].axvline(0, color="0.3", lw=0.8)
axes[2].set(title="Balance: noise decides", xlabel=r"$\lambda_{bal}$", xscale="log")
axes[2].set_xticks([0.5, 1, 3, 5, 10], ["0.5", "1", "3", "5", "10"])
axes[2].set_xlim(left=0.4)
axes[2].minorticks_off()
for lam in (1, 3, 5):
    axes[2].axvline(lam, color=plot.COLORS["CGAN"], ls=":", lw=1)
fig.legend(loc="outside lower center", ncol=4)
plt.show()

# %% [markdown]
# **What to see** (48 batches of 16 pairs; filled: mean of single batches, 95 % interval over them; open: all data, interval by leaving each batch out
# once). *One batch*: $g_{track}$ is twice as long as $g_{gen}$ at the start, 9 (RAW) and 11 times (DM) at the end. *All data*: 1.2 and 0.95
# at the start; at the end, when $g_{track}$ is 0.05 long under noise of 0.6, it cannot be told (0.6 to 2.9; $-1.6$ to 4.1). So $\lambda = 1$ is
# near the balance at first, while what AdamW is *fed* at the end is mostly the tracking loss's noise.
#
# *Agreement*: at the start RAW's losses agree a little (0.16; 0.12 to 0.21), DM's neither agree nor disagree (0.02; $-0.07$ to 0.11). At the end: unknown. (Training at
# rest would mean $g_{track} = -\lambda g_{gen}$.)
#
# The paper's $\lambda$, 3 and 5 (dotted, with ours), cannot be carried over: how its $Loss_{gen}$ is averaged and its features are scaled is not said.

# %% [markdown]
# ## Side by side
#
# | | paper, supplement Table 2 (Siamese) | released code | ours (cpu) |
# |---|---|---|---|
# | 1.1 learns | backbone, neck, head | no training code at all | the same (backbone + neck = extractor) |
# | 1.2 learns | fusion block, its head | - | the same |
# | 2 learns | GMMT, a new head | - | the same |
# | first weights | not said; SiamBAN's are ImageNet's | - | random |
# | batch norms of frozen parts | not said | - | in evaluation mode |
# | template's fusion in stage 2 | not said | - | the frozen fusion block |
# | optimiser | SGD, momentum 0.9, decay 0.0001 | - | AdamW, decay 0.0001 |
# | pairs in a step | 8 | - | 16 |
# | length of 1.1, 1.2, 2 | 20, 20, 100 epochs | - | 800, 1600, 1600 steps |
# | rate in 1.1 | 0.001, 0.005, 0.00005 | - | 0.0004, 0.002, 0.00002 |
# | rate in 1.2 | the same | - | twice that (chosen on validation, [08](08_table_2.ipynb)) |
# | rate in 2 | the same | - | that of 1.1 (chosen in the same way) |
# | $\lambda$ | 3 (GTOT), 5 (LasHeR) | - | 1 |
# | a new head without $U$ | no row | - | HEAD |
# | tested weights | of epoch 76, 70, 60, by benchmark (names of the TBSI and ViPT result folders) | - | after the last step |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# A small step against $g = g_{track} + \lambda g_{gen}$ changes $Loss_{track}$ by about $-\eta\; g_{track} \cdot g$, $\eta$ being the rate (plain gradient descent,
# no AdamW). Let $a = \lVert g_{track} \rVert$, $b = \lVert g_{gen} \rVert$ and $c$ their cosine. From which $\lambda$ on does the step make
# $Loss_{track}$ *worse*? Write it as a function of $a$, $b$, $c$; give `inf` where no $\lambda$ does.

# %%
answer = None  # a function: answer(a, b, c) -> lambda


# %% tags=["solution"]
def from_where(a, b, c):
    """g_track . g = a a + lam a b c, which is negative from lam = a / (b (-c)) on, for c < 0."""
    return a / (b * -c) if c < 0 else float("inf")


answer = from_where

# %%
assert answer is not None, "no answer yet"
u = torch.tensor([1.0, 0.0], dtype=torch.float64)
for a, b, c in ((2.0, 0.5, -0.3), (1.0, 3.0, -0.9), (1.0, 1.0, 0.2)):
    g_track, g_gen = a * u, b * torch.tensor([c, (1 - c * c) ** 0.5], dtype=torch.float64)
    worse = [lam for lam in np.linspace(0, 50, 50001) if g_track @ (g_track + lam * g_gen) < 0]
    least = min(worse, default=float("inf"))
    assert abs(least - answer(a, b, c)) < 0.01 or least == answer(a, b, c), "look at the sign of c"

# %% [markdown]
# ## What follows, and what this does not show
#
# - It shows what learns, that nothing else moves, and what a new head gains without $U$. It does **not** show whether RAW, CGAN or DM track
#   better than Base (notebook 08); a difference of a point there is within what longer training of Base may give.
# - One seed. Intervals are over validation videos (or batches), not over the luck of training.
# - Gradients were measured at $\lambda = 1$, at two moments, with our losses. Notebook 08 tries three $\lambda$.
# - Small extractors with random first weights, drawn video: with ImageNet's weights a Base may leave a new head less to gain, or more.
#
# **Next:** [08, does generative fusion track better, in miniature?](08_table_2.ipynb)
#
# **References.** Tang et al. 2024 (GMMT). Chen et al. 2020 (SiamBAN). Loshchilov, Hutter 2019 (AdamW). Ioffe, Szegedy 2015 (batch norm).
