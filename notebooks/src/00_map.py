# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does GMMT claim, and what of it can be checked?
#
# **In one sentence:** GMMT lets a generative model fuse the features of two cameras in a tracker; of the claims made for it, those about raw
# results and printed tables are checked here, some that need training are judged in miniature, and the others are listed as what they are, not attempted yet.
#
# Paper: all of it (Tang et al., AAAI 2024) and its supplement. Runs about 5 s under every profile. Comes before: nothing. Start here.

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0

# %%
import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib.patches import FancyBboxPatch

from gmmt import notebook, plot, results
from gmmt.study import claims

run = notebook.start("00_map", profile=profile, seed=seed)

# %% [markdown]
# ## The idea
#
# A **tracker** follows one target through a video: told where it is in the first frame, it must find it in all others. A **multi-modal** tracker has
# two cameras: RGB, and thermal (TIR) or depth. Each frame of each camera becomes a grid of features; a **fusion** block makes one grid of two;
# a **head** reads a box off it. **GMMT** trains such a tracker first, freezes it, and then replaces the fusion block by a generative model: a
# diffusion model (DM) or a conditional GAN (CGAN), whose task is to generate the old fused features, given both cameras', starting from
# noise. A new head learns to read boxes off what it generates.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $f_{rgb}, f_{tir}$; $f_1, f_2$ | `f_rgb`, `f_tir`; `f_1`, `f_2` | (B, C, H, W) | features of each modality |
# | $fused$, $x_0$ | `fused`, `x_0` | (B, C, H, W) | the frozen fusion block's output |
# | $fused^*$ | `fused_star` | (B, C, H, W) | the generative model's output |
# | $\mathcal{U}$ | `network` | | the U-shaped network, UNet or UViT |
# | $\lambda$ | `lam` | | weight of the generative loss, Eq. (5) |
# | $s$, $n$ | `steps`, `n_blocks` | | sampling steps; blocks on each side of U |

# %% alt="Diagram: RGB and TIR frames go through frozen extractors; their features go to the old fusion block, which supplies the training target, and to the generative model with noise, whose output a new head turns into a box"
# Boxes: left edge, middle, width, colour, text. Arrows: from x y to x y. Labels: x, y, size, ...
boxes = """0 2.3 1.1 RGB RGB frame; 1.6 2.3 1.5 RGB feature extractor\n(frozen);
0 1.1 1.1 TIR TIR frame; 1.6 1.1 1.5 TIR feature extractor\n(frozen);
4.1 2.3 1.7 old fusion block\n(frozen, then dropped); 3.75 0.15 0.75 truth noise $z$;
4.1 1.1 1.7 DM generative model\nDM or CGAN; 6.5 1.1 1.1 fused new head; 8 1.1 0.9 truth box"""
arrows = """1.1 2.3 1.6 2.3; 1.1 1.1 1.6 1.1; 3.1 2.3 4.1 2.3; 3.1 1.1 4.1 1.1; 3.1 2.2 4.1 1.25;
3.1 1.2 4.1 2.15; 4.5 0.3 4.75 0.8; 5.8 1.1 6.5 1.1; 7.6 1.1 8 1.1; 4.95 2 4.95 1.4"""
labels = """3.2 2.43 9 RGB $f_{rgb}$; 3.2 0.8 9 TIR $f_{tir}$; 5.88 1.22 9 DM $fused^*$;
5.03 1.63 8 truth $fused$: what to generate (training)"""
figure, ax = plt.subplots(figsize=(7, 2.3), subplot_kw={"xlim": (-0.05, 9), "ylim": (-0.2, 2.75)})
for x, y, w, ink, text in (box.split(maxsplit=4) for box in boxes.split(";")):
    x, y, w, color = float(x), float(y), float(w), plot.COLORS.get(ink, "#777777")
    look = {"fc": color + "22", "ec": color, "lw": 1.4, "ls": "--" if ink == "old" else "-"}
    ax.add_patch(FancyBboxPatch((x, y - 0.3), w, 0.6, "round,pad=0,rounding_size=0.1", **look))
    ax.text(x + w / 2, y, text, ha="center", va="center", fontsize=8)
look = {"arrowstyle": "-|>", "color": "0.3", "lw": 1.1, "shrinkA": 0, "shrinkB": 1}
for x_0, y_0, x_1, y_1 in (map(float, arrow.split()) for arrow in arrows.split(";")):
    dash = {"ls": "--" if x_0 == x_1 else "-"}
    ax.annotate("", (x_1, y_1), (x_0, y_0), arrowprops=look | dash)
for x, y, size, ink, text in (label.split(maxsplit=4) for label in labels.split(";")):
    ax.text(float(x), float(y), text, fontsize=float(size), color=plot.COLORS[ink])
ax.set_title("GMMT puts a generative model in the place of a tracker's fusion block")
ax.axis("off")
plt.show()

# %% [markdown]
# **What to see.** Only the purple block and the new head are trained in the second stage. The old fusion block says what to generate and then
# goes. Three questions follow at once, and the paper's own table does not separate them: is a gain due to the *generative* loss, to the
# *larger* network in the old block's place, or to the *head's* longer training?

# %% [markdown]
# ## 1. What was published
#
# Every number of the paper's and the supplement's tables, and of supplement Fig. 4, is in one tidy table, each with its source.

# %% tags=["nbval-check-output"]
published = results.published()
counts = {}
for source in published.source:
    counts[source] = counts.get(source, 0) + 1
assert counts == published.groupby("source", sort=False).size().to_dict()
print(f"{len(published)} published numbers")
print("\n".join(f"{n:4d}  {source}" for source, n in counts.items()))

# %% alt="Gains over the Siamese baseline in the paper's Table 2, for RAW, CGAN and DM, on GTOT and LasHeR; DM gains everywhere, RAW and CGAN lose precision on GTOT"
table2 = published.query("source == 'paper Table 2'").astype({"value": float})
wide = table2.pivot(index=["benchmark", "metric"], columns="method", values="value")
gains = wide.sub(wide.Siamese, axis=0).drop(columns="Siamese")
gains = gains.melt(ignore_index=False, value_name="gain").reset_index()
gains["method"] = gains.method.str.extract(r"(RAW|CGAN|DM)")[0]
places = list(dict.fromkeys(zip(gains.benchmark, gains.metric, strict=True)))
figure, ax = plt.subplots(figsize=(6.4, 2.7))
for shift, (method, part) in zip((0.2, 0, -0.2), gains.groupby("method", sort=False), strict=True):
    y = [shift - places.index(p) for p in zip(part.benchmark, part.metric, strict=True)]
    ax.plot(part.gain, y, "o", color=plot.COLORS[method], label=method)
ax.axvline(0, color="0.3", linewidth=0.8)
ax.set_yticks([-i for i in range(len(places))], [" ".join(p) for p in places])
ax.set_xlabel("gain over the Siamese baseline / points (printed; no interval was)")
ax.set_title("The paper's central table: one training run a row")
ax.legend()
plt.show()

# %% [markdown]
# **What to see.** RAW is the same network trained by plain regression, no generation. The diffusion model (DM) is ahead of it by 2 to 5
# points; RAW and CGAN are *below* the baseline in GTOT's PR. Each dot is one training run and one number, with no interval and no
# baseline whose head was trained as long. That is what this project sets out to measure.

# %% [markdown]
# ## 2. The ledger
#
# Each claim has a source, a way to check it, and a verdict that is **computed** by rules fixed before anything was trained here (47, 48: before their scores were read; `gmmt/study/claims.py`):
#
# | verdict | rule |
# |---|---|
# | recomputed | the number from raw results equals the printed one at the printed digits |
# | holds | the 95 % interval of the paired difference lies above 0; or the printed tables agree with the sentence |
# | does not hold | it lies below 0, or below the claimed size; or a number or a comparison does not come out as printed |
# | undecided | neither |
# | not attempted | nothing here has measured it yet |


# %%
def naive_verdict(low, high, claimed):
    """The rule for a difference that is claimed to be positive, case by case."""
    if low > 0:
        return "holds"
    if high < 0:
        return "does not hold"  # the opposite is true
    if high < claimed:
        return "does not hold"  # whatever it is, it is not as large as claimed
    return "undecided"


# %% tags=["nbval-check-output"]
for low, high, claimed in [(0.4, 3.1, 2.4), (-0.9, 1.2, 2.4), (-0.9, 3.2, 2.4), (-2.0, -0.1, 2.4)]:
    verdict = claims.judge_difference(low, high, claimed)
    assert verdict == naive_verdict(low, high, claimed)
    print(f"measured [{low:+.1f}, {high:+.1f}], claimed {claimed:+.1f}: {verdict}")

# %%
palette = ("#0072B2", "#009E73", "#D55E00", "#E69F00", "#CCCCCC")
colors = dict(zip(claims.VERDICTS, palette, strict=True))


def draw_tiles(ax, ledger):
    """Draws a row of tiles for each way of checking, coloured by verdict, from the top down."""
    checks = list(ledger["check"].unique())
    look = {"boxstyle": "round,pad=0,rounding_size=0.12", "edgecolor": "none"}
    for row, check in enumerate(checks):
        part = ledger[ledger["check"] == check]
        ranks = part.verdict.map(claims.VERDICTS.index).sort_values(kind="stable")
        for column, claim in enumerate(part.loc[ranks.index].itertuples()):
            corner, color = (column + 0.06, 0.06 - row), colors[claim.verdict]
            ax.add_patch(FancyBboxPatch(corner, 0.88, 0.78, facecolor=color, **look))
            ink = "black" if claim.verdict in ("undecided", "not attempted") else "white"
            middle = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
            ax.text(column + 0.5, 0.45 - row, claim.id[1:], **middle)
    ax.set(xlim=(0, ledger["check"].value_counts().max()), ylim=(1 - len(checks), 1), xticks=[])
    ax.set_yticks([0.45 - row for row in range(len(checks))], [f"{check} " for check in checks])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


# %% alt="Tiles, one for each claim, in four rows by way of checking: raw results, printed tables, miniature, real data and GPU; coloured by verdict. Of the row miniature four do not hold, three are undecided and five are grey, not attempted; the last row is grey"
ledger = claims.ledger()
figure, ax = plt.subplots(figsize=(7, 2.4))
draw_tiles(ax, ledger)
for verdict, n in claims.tally(ledger).items():
    ax.plot([], [], "s", color=colors[verdict], label=f"{verdict} ({n})", markersize=7)
spacing = {"columnspacing": 0.8, "handletextpad": 0.1}
ax.legend(loc="upper left", bbox_to_anchor=(-0.2, -0.02), ncol=5, **spacing)
ax.set_title("What can be checked, and what checking says")
plt.show()

# %% [markdown]
# **What to see.** One tile is one claim (its number is in the tables below). *Printed tables* checks only that the paper agrees with itself. What
# matters most, the row *miniature*, comes from trackers that were trained here on drawn video, with controls ([08](08_table_2.ipynb), [09](09_transformers.ipynb)): it says what holds *there*.
# "Better than the baseline" is asked three times: against the baseline, against one trained for as long, and against a new head alone; the weakest verdict
# counts. Its intervals cover trainings (eight; five with ViPT and TBSI) and videos (150).

# %% tags=["nbval-check-output"]
tally = claims.tally(ledger)
assert sum(tally.values()) == len(ledger) and set(ledger.verdict) <= set(claims.VERDICTS)
print(f"{len(ledger)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in tally.items()))

# %%
from gmmt.study.stored import standing

for table in ("2", "6"):  # of the paper, of its supplement
    print(f"Table {table} in miniature: {standing(table)}.")

# %%
for row in ledger[ledger.verdict == "does not hold"].itertuples():
    print(f"{row.id}  {row.claim} ({row.source}).\n     {row.evidence}.\n")

# %% [markdown]
# **What to see.** These are the claims that do not come out as printed, with the evidence. Some are trifles (a last digit), one is systematic
# (a divisor, [notebook 11](11_raw_results.ipynb)), and some are sentences that the paper's own tables contradict. Four are measured in miniature: there the
# method does not beat a baseline that is trained for as long. None says whether it works on LasHeR.

# %%
saved = run.save(ledger, "ledger.csv", source="published numbers, stored scores; gmmt.study.claims")
run.headline(f"{len(ledger)} claims: " + ", ".join(f"{n} {v}" for v, n in tally.items() if n))
lines = ["| id | check | claim | verdict |", "|---|---|---|---|"]
for r in ledger.assign(claim=ledger.claim.str.replace("*", r"\*")).itertuples():
    lines.append(f"| {r.id} | {r.check} | {r.claim} | **{r.verdict}** |")
Markdown("\n".join(lines))

# %% [markdown]
# ## 3. The map
#
# | notebook | question | state |
# |---|---|---|
# | **00** | what is claimed, what can be checked | here |
# | [**01**](01_noise_schedule.ipynb) | what does noise destroy, what brings it back | here |
# | [**02**](02_prediction_targets.ipynb) | what does each loss weigh | here |
# | [**03**](03_networks.ipynb) | what is the network U made of | here |
# | [**04**](04_sampling.ipynb) | how many steps does a sample need | here |
# | [**05**](05_three_losses.ipynb) | RAW, CGAN or DM: what does each learn | here |
# | 06 - 09 | trackers, two stages, Tables 2 and 6 in miniature | here |
# | [**10**](10_metrics.ipynb) | what exactly is a score | here |
# | [**11**](11_raw_results.ipynb) | do the raw results give the tables | here |
# | 12 - 16, 19 | lambda, blocks, steps, fusion quality, features, RGB-D | planned |
# | [**17**](17_full_run.ipynb) | what does it take to run Table 1 | here |
# | [**18**](18_paper_and_code.ipynb) | where do paper, supplement and released code disagree | here |
#
# The method reads in order, 00, 01, ...; the evidence, from 10 on, in any order.

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# A replication measures a gain of +1.0 SR with a 95 % interval of [-0.6, +2.6]. The paper claims +2.3. What does the ledger say? And what would it
# say if four times as many sequences halved the interval around the same +1.0?

# %%
answer = None  # two verdicts, as a tuple

# %% tags=["solution"]
answer = claims.judge_difference(-0.6, 2.6, 2.3), claims.judge_difference(1.0 - 0.8, 1.0 + 0.8, 2.3)

# %%
assert answer is not None, "no answer yet"
assert answer[0] == "undecided", "zero and the claimed size are both inside the interval"
assert answer[1] == "holds", "the direction is established, though not the size"

# %% [markdown]
# ## What follows, and what this does not show
#
# - That a printed comparison *holds* says nothing about chance: the paper gives no intervals, and its raw baselines are not public.
# - The ledger's list of claims is our reading. Where a sentence had to be made checkable, it says "checked as".
#
# **Next:** [01, the noise schedule](01_noise_schedule.ipynb), if you came for the method; [10, the score](10_metrics.ipynb), if you came for the evidence.
#
# **References.** Tang, Xu, Wu, Zhu, Kittler: Generative-Based Fusion Mechanism for Multi-Modal Tracking, AAAI 2024.
