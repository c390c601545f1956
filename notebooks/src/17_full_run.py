# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does it take to run the paper's Table 1 yourself?
#
# **In one sentence:** the images, official weights, a GPU, and about 40 hours, half of them tracking; here every step of that road runs on a copy small enough
# for a laptop.
#
# Paper: Table 1, implementation details; supplement, Table 2. Read 15 min, runs 1 min under every profile. Comes before:
# [07, two stages](07_two_stages.ipynb), [10, scores](10_metrics.ipynb).

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
import numpy as np
import pandas as pd

from gmmt import files, notebook, plot
from gmmt.config_file import load

run = notebook.start("17_full_run", profile=profile, seed=seed)

# %% [markdown]
# ## The answer
#
# Table 1 has four **rows** that can be run here: ViPT\*, ViPT\*+GMMT (with the UViT, V), TBSI and TBSI+GMMT (with the UNet, U); the \* says that the paper trained ViPT's fusion anew. You need
# LasHeR, RGBT234, and the official weights of OSTrack and TBSI. One command does all of it:
#
#     snakemake --cores 8 --resources gpu=1 --config goal=paper rows=vipt,vipt_gmmt_uvit,tbsi,tbsi_gmmt_unet benchmarks=lasher,rgbt234 lasher=/data/LasHeR rgbt234=/data/RGBT234 ostrack=FILE tbsi=FILE
#
# Each row has a file in `configs/paper/` with the supplement's plan: which stages, how many epochs, which optimiser and rates. What the supplement leaves open is filled in there, with a comment.
# Stage 1.1 trains a tracker for each camera, 1.2 their fusion, 2 GMMT. How long does that take?

# %% alt="Bars of training hours for ten rows, each with the tables it stands in. Siamese and its three stage-2 rows 1.4 to 10 hours, ViPT 2 hours and with GMMT 5 to 11, TBSI none, with the UViT 6, with the UNet 12"
from gmmt.study import full_run

ROWS = ["siamese", "siamese_raw_unet", "siamese_cgan_unet", "siamese_gmmt_unet", "vipt"]
ROWS += ["vipt_gmmt_unet", "vipt_gmmt_uvit", "tbsi", "tbsi_gmmt_unet", "tbsi_gmmt_uvit"]
configs = {row: load(files.config_dir() / "paper" / f"{row}.yaml", "cpu") for row in ROWS}
costs = {row: full_run.stages(config) for row, config in configs.items()}
table = pd.DataFrame([vars(line) | {"hours": line.hours} for r in ROWS for line in costs[r]])
table.insert(0, "built for", [r for r in ROWS for _ in costs[r]])
looks = {"1.1 rgb": "RGB", "1.1 tir": "TIR", "1.2": "fused", "2": "DM"}
figure, ax = plt.subplots(figsize=(7, 3.2))
for k, row in enumerate(ROWS):
    left = 0.0
    for line in costs[row]:
        ax.barh(-k, line.hours, left=left, color=plot.COLORS[looks[line.stage]])
        left += line.hours
TABLES = ["2, S6", "2", "2", "2, S6", "1, S6", "S6", "1, S6", "1, S6", "1, S6", "S6"]
names = [f"{configs[r].meaning}  ({t})" for r, t in zip(ROWS, TABLES, strict=True)]
ax.set_yticks([-k for k in range(len(ROWS))], names)
ax.set(xlim=(0, 15), xlabel="hours on one H200, computed")
ax.set_title("Training hours of a row, by itself (tables)")
marks = [plt.Rectangle((0, 0), 1, 1, color=plot.COLORS[c]) for c in looks.values()]
ax.legend(marks, [f"stage {s}" for s in looks], loc="upper right")
plt.show()

# %% [markdown]
# **What to see.** S6 is the supplement's Table 6. TBSI needs no training: the paper takes its authors' weights. Rows of one tracker share stage 1, so that Table 1 is trained in 17 hours, and all ten rows in two
# days. Tracking comes on top: at the paper's 18 frames a second, three and a half hours a row for LasHeR's test videos, and two for RGBT234's. All this is *computed*; section 4 shows from
# what. Siamese bars are lower bounds: 8 pairs do not fill such a card.

# %% [markdown]
# ## 1. What this machine has
#
# A GPU, the images, and official weights to start from. Images and weights lie behind licences or log-ins, so a program cannot fetch them: `gmmt fetch lasher` and `gmmt fetch weights`
# print where people get them. Whatever lies elsewhere can be linked (`ln -s /data/LasHeR data/lasher`), or named in each command.

# %%
import shutil

import torch

from gmmt.data.manifest import load_all


def check_list():
    """Yields (what the full run needs, is it here, what this machine says)."""
    gpu = torch.cuda.is_available()
    yield "a GPU", gpu, torch.cuda.get_device_name(0) if gpu else "none is visible to torch"
    free = shutil.disk_usage(files.PACKAGE).free / 1e9
    yield "30 GB for weights", free > 30, f"{free:.0f} GB free"
    for name in ("lasher", "rgbt234", "gtot"):
        there = (files.data_dir() / name).is_dir()
        yield f"data/{name}", there, load_all()[name].title
    weights = files.data_dir() / "weights"
    found = sorted(path.name for path in weights.glob("*")) if weights.is_dir() else []
    yield "official weights", bool(found), ", ".join(found) or "none in data/weights"


for what, there, words in check_list():
    print(f"{'yes' if there else 'no ':3s}  {what:18s} {words}")

# %% [markdown]
# ## 2. A data set, small enough to hold in the hand
#
# From here on this notebook uses a tiny copy, whatever the list above says: four sequences with LasHeR's own names and lengths, in LasHeR's folders, with drawn frames in the place of
# photographs. To every command they are LasHeR.

# %%
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image

from gmmt.data import manifest, synthetic

lasher = Path(mkdtemp()) / "LasHeR"
SMALL = {"trainingset": ["redminirtruck", "mototurntous", "silvercarcome"]}
SMALL["testingset"] = ["lowerfoamboard"]
splits = manifest.load("lasher")["layout"]["splits"]
lengths = splits["train"]["rows"] | splits["test"]["rows"]
for k, (folder, name) in enumerate((f, n) for f, names in SMALL.items() for n in names):
    video = synthetic.scene("train", k, lengths[name])
    place = lasher / folder / name
    for side, letter in (("visible", "v"), ("infrared", "i")):
        (place / side).mkdir(parents=True)
        for i in range(len(video)):
            pixels = video.frame(i)[:3].transpose(1, 2, 0) if letter == "v" else video.frame(i)[3]
            image = Image.fromarray(np.ascontiguousarray(pixels)).resize((320, 320))
            image.save(place / side / f"{letter}{i:06d}.jpg", quality=92)
        boxes = (video.boxes * 2.5).round().astype(int)
        np.savetxt(place / f"{side}.txt", boxes, "%d", delimiter=",")

# %%
from gmmt.data.datasets import open_dataset

train = open_dataset("lasher", lasher, "train", part=True)
for video in train:
    print(f"{video.name:14s} {len(video)} frames of {video.size}, first box {video.boxes[0]}")

# %% [markdown]
# `gmmt verify` compares a folder with what is known of the data set: names, numbers of images and boxes. With `--deep` it opens every image, in parallel. We damage one, as an
# interrupted download would, and see.

# %% tags=["nbval-check-output"]
import contextlib
import io

from gmmt.data.verify import verify

broken = lasher / "trainingset" / "mototurntous" / "visible" / "v000007.jpg"
whole = broken.read_bytes()
for word, content in (("whole", whole), ("cut off", whole[: len(whole) // 2])):
    broken.write_bytes(content)
    with contextlib.redirect_stderr(io.StringIO()):  # the bar
        lines = verify("lasher", root=lasher, deep=True, part=True, jobs=1)
    print(f"{word}: {len(lines)} problems")
    for line in lines:
        print(line.replace(str(lasher), "LasHeR").split(" (")[0])
_ = broken.write_bytes(whole)

# %% [markdown]
# ## 3. What the network learns from
#
# OSTrack and its heirs draw a sequence, a template frame, and a search frame that follows within 200 frames. Around the target they cut squares of
#
# $$\text{side} = \lceil f \sqrt{w h}\, \rceil, \qquad f = 2 \text{ (template)},\ 4 \text{ (search)}$$
#
# pixels. The search square is moved and scaled at random, so that the target is not always in its middle.

# %%
from gmmt.build import make_tracker
from gmmt.data.samples import Samples

options = {"data": {"root": str(lasher), "part": True, "workers": 0}}
row = load(files.config_dir() / "paper" / "tbsi_gmmt_uvit.yaml", "cpu", options)
with torch.device("meta"):  # a tracker of full size, without its memory
    crops = make_tracker(row).crops
samples = Samples(train, crops, row.data)
pairs = [samples.item((seed, 2), k) for k in (2, 4, 5, 9)]

# %% alt="Four pairs: a template of a drawn target; a search patch that shows twice as much of the frame, in RGB and in thermal, with a box on the target, mostly away from the middle"
from matplotlib_inline.backend_inline import set_matplotlib_formats as photos

photos("jpeg", pil_kwargs={"quality": 75})  # a PNG takes six times the space
figure, axes = plt.subplots(3, 4, figsize=(7, 5))
for column, (template, search, box) in zip(axes.T, pairs, strict=True):
    shown = (template[:3].permute(1, 2, 0), search[:3].permute(1, 2, 0), search[3])
    for ax, image in zip(column, shown, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
    x1, y1, x2, y2 = (box + 128).tolist()
    for ax in column[1:]:
        frame = plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="white")
        ax.add_patch(frame)
for ax, label in zip(axes[:, 0], ("template", "search, RGB", "search, thermal"), strict=True):
    ax.set_ylabel(label)
figure.suptitle("Four training pairs, cut as OSTrack cuts them", x=0.01, ha="left", fontsize=10)
plt.show()
photos("png")

# %% [markdown]
# **What to see.** The target is not quite in the middle of the search patch, and not always equally large. The first two pairs are of one video, the second mirrored. Pair $k$ depends on *(seed, stage, k)* alone: however many processes read
# images, and wherever a run was stopped, the network sees the same pairs.

# %% [markdown]
# ## 4. From plan to hours
#
# $$\text{hours} = \frac{N F}{3600\, v}, \qquad v = F_{\text{measured}} \times \text{steps a second}$$
#
# $N$ is the number of steps: epochs, times the pairs of an epoch, divided by the pairs of a step. $F$ are the floating-point operations of a step, counted on torch's `meta` device, where nothing is computed.
# $v$, what a GPU does in a second, is the lowest of three measurements. Meanwhile processors read the next images, 200 pairs a second and core, on 8 cores; a stage takes as long as the
# slower of the two.

# %%
speeds = pd.read_csv(files.resource("speeds.csv"))
told = ["device", "network", "batch", "precision", "steps_per_second", "gigabytes"]
print(speeds[told].to_string(index=False))
print(f"lowest: {full_run.measured() / 1e12:.0f} TFLOP a second")
shown = ["built for", "stage", "steps", "teraflop", "gpu_hours", "loader_hours", "gigabytes"]
print("\n" + table[shown].round(1).to_string(index=False))
saved = run.save(table, "hours.csv", source="computed from speeds measured on one H200")
alone = sum(line.hours for line in costs["tbsi_gmmt_uvit"])
run.headline(f"TBSI+GMMT(V): {alone:.1f} hours of an H200, computed")

# %% [markdown]
# **What to see.** The lowest $v$ is that of the UViT with $n = 1$; at their own speeds the other two take 9.1 hours ($n = 8$) and 8.8 (UNet), less than computed. They ran in bf16, as TBSI's rows here do; rows in
# fp32 take longer. Below, `gigabytes` are weights, gradients and momentum alone; above, all that a card held. If it does not fit, `--set compute.parts=2` needs less.

# %% tags=["nbval-check-output"]
naive = 100 * 60_000 / 32  # epochs, pairs of an epoch, pairs of a step
line = costs["tbsi_gmmt_uvit"][0]
assert line.steps == naive
measured = speeds.query("network == 'UViT n=1'").steps_per_second.item()
assert line.gpu_hours >= naive / measured / 3600 - 1e-6  # the slowest speed is taken
print(f"{line.steps} steps; at {measured} a second {naive / measured / 3600:.1f} hours")
rates = [row.plans["2"].rate_at(epoch * line.steps // 100) for epoch in range(100)]
up, down = np.geomspace(0.001, 0.005, 21)[:20], np.geomspace(0.005, 0.00005, 80)
np.testing.assert_allclose(rates, [*up, *down])
print(f"rates {rates[0]:.3f}, {max(rates):.3f}, {rates[-1]:.5f}, and all between, as by hand")

# %% [markdown]
# ## 5. Train, track, score
#
# One command does it all for one row, here with a tiny network, two steps, and the copy from section 2. In earnest it is
#
#     gmmt train --config configs/paper/tbsi_gmmt_unet.yaml --profile paper --set data.root=/data/LasHeR --set start.file=FILE

# %%
import os
import subprocess

weights = Path(mkdtemp()) / "trackers"
command = ["train", "--config", str(files.config_dir() / "paper" / "tbsi_gmmt_uvit.yaml")]
command += ["--profile", "smoke", "--weights", str(weights)]
command += ["--set", f"data.root={lasher}", "--set", "data.part=true"]
call = {"capture_output": True, "text": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
done = subprocess.run([sys.executable, "-m", "gmmt.cli", *command], **call)
assert done.returncode == 0, done.stderr
print(done.stdout.replace(str(weights.parent), "RUNS"))

# %% [markdown]
# Two steps teach nothing, and one video says nothing; the score only shows that the road has no gap. The folder of results is what `gmmt score` reads, from anyone's tracker.
# The same weights on another data set: `gmmt track --benchmark rgbt234 --root DIR --config ...`, with the profile, seed and `--set` of the training. It may be killed and started again, and `--jobs 4` shares its
# sequences among processes and GPUs.

# %% [markdown]
# ## 6. All rows, on many machines
#
# The command of the beginning plans everything as one graph: a job runs when what it needs is there, and what was made is not made again. With `--profile workflow/slurm` in the place of `--cores` and
# `--resources` the same jobs go to a cluster. All ten rows need GTOT, and SiamBAN's ResNet-50 (`resnet50=FILE`), too.

# %% alt="A graph from left to right. Verified data leads to the training of three base rows, from which seven rows of stage 2 hang; each row is tracked and scored on three benchmarks, and one table gathers all scores"
figure, ax = plt.subplots(figsize=(7, 3.6))
bases = ["siamese", "vipt", "tbsi"]
height = {r: -k for k, r in enumerate(ROWS)}
middle = np.mean(list(height.values()))
look = {"boxstyle": "round", "fc": "white", "ec": "0.4"}


def node(x, y, text):
    ax.text(x, y, text, ha="center", va="center", fontsize=7, bbox=look)


for r in ROWS:
    base = r.split("_")[0]
    x = 1.2 if r in bases else 2.6
    start = (0, middle) if r in bases else (1.2, height[base])
    for a, b in ((start, (x, height[r])), ((x, height[r]), (4.2, height[r]))):
        ax.plot([a[0], b[0]], [a[1], b[1]], color="0.7", lw=1, zorder=0)
    ax.plot([4.2, 5.6], [height[r], middle], color="0.7", lw=1, zorder=0)
    node(x, height[r], configs[r].meaning)
    node(4.2, height[r], "track, score: L, R, G")
node(0, middle, "verify data")
node(5.6, middle, "one table")
ax.set(xlim=(-0.6, 6.1), title="Ten rows, of which nine train; L: LasHeR, R: RGBT234, G: GTOT")
ax.axis("off")
plt.show()

# %% [markdown] tags=["exercise"]
# ## Exercises
#
# **1. Predict** (5 min, easy). SiamBAN's own setting has a million pairs an epoch; the supplement does not say how many GMMT's Siamese tracker saw, and we take 60,000. How many hours would stage 2 of
# *Siamese+GMMT(U)* take with a million? (Hint: only $N$ changes.)

# %%
answer = None  # hours

# %% tags=["solution"]
(stage_2,) = (line for line in costs["siamese_gmmt_unet"] if line.stage == "2")
answer = stage_2.hours * 1_000_000 / 60_000

# %%
assert answer is not None, "no answer yet"
(stage_2,) = (line for line in costs["siamese_gmmt_unet"] if line.stage == "2")
assert abs(answer / stage_2.hours - 50 / 3) < 0.5, "the hours grow as the pairs do"

# %% [markdown] tags=["exercise"]
# **2. Implement** (10 min, medium). The side of a square, and how many pixels of the frame one of its pixels shows, for a target of 30 by 48 pixels and a search patch of 256. (Hint: the formula in section 3.)

# %%
side, scale = None, None

# %% tags=["solution"]
side = int(np.ceil(4 * np.sqrt(30 * 48)))
scale = side / 256

# %%
assert side is not None, "no answer yet"
assert side == 152, "4 sqrt(30 * 48), rounded up"
assert np.isclose(scale, crops.scale(torch.tensor([[30.0, 48.0]])).item()), "side / 256"

# %% [markdown] tags=["exercise"]
# **3. Extend** (15 min, medium). Write a configuration of your own: TBSI + GMMT(V) with eight blocks in its UViT, the supplement's best on RGBD1K. (Hint: a file names another as its `base:`, here by an absolute path,
# and says only what is to be changed; look at `configs/paper/tbsi_gmmt_uvit.yaml`.) How many hours does it take?

# %%
my_row = None  # the text of a YAML file

# %% tags=["solution"]
my_row = f"""
base: {files.config_dir() / "paper" / "tbsi_gmmt_uvit.yaml"}
name: my_row
generator: {{network: {{args: {{n_blocks: 8}}}}}}
"""

# %%
assert my_row is not None, "no answer yet"
path = Path(mkdtemp()) / "my_row.yaml"
path.write_text(my_row)
mine = load(path, "cpu")
assert mine.generator.network.args["n_blocks"] == 8, "generator: network: args: n_blocks"
print(f"{mine.name}: {full_run.stages(mine)[0].hours:.1f} hours")

# %% [markdown]
# ## What this does not show
#
# - No number of Table 1 was made here: that takes the images, and the GPU.
# - Hours are estimates from one kind of GPU, measured before noise was drawn on it, and from formulas that count arithmetic alone.
# - The paper does not say how many pairs an epoch has, which epoch it kept, how many blocks the UViT has for RGB-T, or what initialised the Siamese backbones. Our answers stand as comments in `configs/paper/`;
#   others would give other numbers. Its $\lambda$ on GTOT, 3, is not the one on LasHeR, 5, which all rows here have.
#
# **Next:** [18, where paper and code disagree](18_paper_and_code.ipynb).
#
# **References.** Tang et al. 2024 (GMMT). Ye et al. 2022 (OSTrack). Hui et al. 2023 (TBSI). Chen et al. 2020 (SiamBAN). Li et al. 2022 (LasHeR).
