# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many steps does a sample need?
#
# **In one sentence:** it depends on what the sample is for: with a perfect $U$, one step gives the mean of all that is possible, which nothing beats
# in squared error; tens of steps give samples whose distribution is near the right one, at nearly twice that error.
#
# Paper: "Generative-Based Fusion Mechanism", Eq. (3), Fig. 5; supplement, Tables 1, 2 and 4. Runs about 15 s (smoke), 2 to 3 min (cpu). Read before this:
# [01](01_noise_schedule.ipynb) (the schedule, one DDIM step) and [02](02_prediction_targets.ipynb) (the posterior).

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
import torch

from gmmt import notebook, plot
from gmmt.schedule import Schedule

run = notebook.start("04_sampling", profile=profile, seed=seed)
schedule, WIDTH = Schedule.cosine(1000), 0.2

# %% [markdown]
# ## The idea
#
# A sampler starts from noise and asks a network $U$ for the clean map at $s$ steps $t$. To see what $s$ does, and not what a half-trained network does,
# sections 1 to 4 use no network and no conditions: data are points in the plane from a **mixture** of three round Gaussians, for which the *perfect* answer has a
# formula (section 1): $\hat x_0 = E[x_0 \mid x_t]$, the mean of all $x_0$ that may have led to $x_t$. Section 5 trains a fusion, with two cameras' features as conditions.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $s$ | `s`, `steps` | int | calls of $U$ for one sample |
# | $x_t$, $\hat x_0$, $\hat z$ | `x_t`, `x_hat`, `z_hat` | (n, 2) | noisy points; predicted point and noise |
# | $\bar\alpha_t$ | `alpha_bar` | (T,) | share of the signal's variance left |
# | (not named) | `eta` | 0..1 | $\eta$: how much fresh noise a step draws |
# | $fused$, $fused^*$ | `scene`, `outputs` | (B, C, H, W) | in GMMT: the map to restore; a sample of it |
# | (ours) | `WEIGHT`, `CENTER`, `WIDTH` | (3,), (3, 2), 1 | of the mixture: $w_k$, $m_k$, $b$ |

# %% alt="Three grey clouds of points and, over them, arrows from noisy points to the perfect answer. At step 999 all arrows end in one point between the clouds; at 600 they end between the clouds or in them, at 200 in the clouds"
WEIGHT = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CENTER = torch.tensor([[-1.0, -0.4], [1.3, -0.6], [0.55, 1.9]], dtype=torch.float64)


def perfect(x_t, t):
    """Returns E[x_0 | x_t] [n, 2] for points x_t [n, 2] of the mixture at step t."""
    a = schedule.alpha_bar[t]
    variance, offset = a * WIDTH**2 + 1 - a, x_t[:, None] - a.sqrt() * CENTER
    share = (WEIGHT.log() - offset.square().sum(2) / (2 * variance)).softmax(1)
    return (share[:, :, None] * (CENTER + a.sqrt() * WIDTH**2 / variance * offset)).sum(1)


def truth(n, g):
    """Returns n points [n, 2] of the mixture itself, drawn with the generator g."""
    return CENTER[WEIGHT.multinomial(n, True, generator=g)] + WIDTH * torch.randn(n, 2, generator=g)


x_0, generator = truth(400, run.generator()), torch.Generator().manual_seed(1)
figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.8), sharex=True, sharey=True)
for ax, t in zip(axes, (999, 600, 200), strict=True):
    x_t = schedule.q_sample(x_0, t, torch.randn(400, 2, generator=generator).double())[:60]
    ax.plot(*x_0.T, ".", color="0.8", markersize=2)
    ax.quiver(*x_t.T, *(perfect(x_t, t) - x_t).T, fc="C3", angles="xy", scale_units="xy", scale=1)
    ax.set(title=f"t = {t}", aspect="equal", xlabel="axis 1", ylabel="axis 2")
plt.show()

# %% [markdown]
# **What to see** (grey: the data; arrows: from $x_t$ to $\hat x_0$). At $t = 999$ nothing is left of the data, so every noisy point gets the same
# answer: the mean of all data, a place where *there are none*. At $t = 600$ the answer is a compromise between the clouds that are possible; at $t = 200$ it is a
# point in one cloud. A network trained by a squared error on $x_0$ aims at exactly these arrows.

# %% [markdown]
# ## 1. The perfect $U$
#
# Seen through the noise, cloud $k$ (weight $w_k$, centre $m_k$, width $b$) is a Gaussian with centre $\sqrt{\bar\alpha_t}\,m_k$ and variance
# $h = \bar\alpha_t b^2 + 1 - \bar\alpha_t$ in each direction. Which cloud did $x_t$ come from? By Bayes' rule, with probability
#
# $$r_k \propto w_k \exp\!\big(-\lvert x_t - \sqrt{\bar\alpha_t}\,m_k\rvert^2 / 2h\big)$$
#
# (the *responsibility*). Within a cloud, the mean of a Gaussian given a noisy measurement is the centre plus a share of the offset. Together:
#
# $$E[x_0 \mid x_t] = \sum_k r_k \Big(m_k + \frac{\sqrt{\bar\alpha_t}\,b^2}{h}\,(x_t - \sqrt{\bar\alpha_t}\,m_k)\Big)$$
#
# The check knows nothing of this: it averages $x_0$ over a fine grid of the plane, each point weighted by how likely it is and how likely it leads to $x_t$.
# It also prints how far apart, along one axis, the answers to five random $x_t$ lie: about as far as the clouds at $t = 200$ and 600, and 0.0002 at $t = 999$, where all
# noise leads to one answer.

# %% tags=["nbval-check-output"]
axis = torch.linspace(-4, 4, 801, dtype=torch.float64)
plane = torch.cartesian_prod(axis, axis)
density = sum(
    w * torch.exp(-(plane - m).square().sum(1) / (2 * WIDTH**2))
    for w, m in zip(WEIGHT, CENTER, strict=True)
)
x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for t in (200, 600, 999):
    a, naive = schedule.alpha_bar[t], []
    for x in x_t:
        weight = density * torch.exp(-(x - a.sqrt() * plane).square().sum(1) / (2 * (1 - a)))
        naive.append((weight[:, None] * plane).sum(0) / weight.sum())
    torch.testing.assert_close(torch.stack(naive), perfect(x_t, t), rtol=0, atol=1e-6)
    apart = (perfect(x_t, t) - perfect(x_t, t)[0]).abs().max()
    print(f"t = {t}: the formula holds; the answers to five x_t differ by up to {apart:.1g}")

# %% [markdown]
# ## 2. A step, and its $\eta$
#
# DDIM (Song et al., 2021) goes from $t$ to a lower $t'$ by Eq. (2), with part of the predicted noise $\hat z$ exchanged for fresh noise $\epsilon$:
#
# $$x_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0 + \sqrt{1-\bar\alpha_{t'}-\sigma^2}\;\hat z + \sigma\,\epsilon, \qquad
# \sigma = \eta\,\sqrt{\frac{1-\bar\alpha_{t'}}{1-\bar\alpha_t}}\sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_{t'}}}$$
#
# $\eta = 0$ is deterministic, once the first noise is drawn. $\eta = 1$ between neighbours, $t' = t - 1$, is DDPM's *ancestral* sampling: a draw from the posterior
# $q(x_{t-1} \mid x_t, \hat x_0)$, the paper's Eq. (3) up to a misprint ([02](02_prediction_targets.ipynb)). Between distant steps it is the posterior of the *sub-chain*, which has only the
# grid's steps: one of its steps keeps $\bar\alpha_t / \bar\alpha_{t'}$ of the variance. At $s = 1$, $t'$ means clean, $\bar\alpha = 1$: then $\sigma = 0$, and $\eta$ does nothing.
# The supplement's Table 2 lists DDIM as the sampler; the released code has $\eta = 1$.

# %% tags=["nbval-check-output"]
for t, t_next in [(500, 499), (999, 998), (999, 499), (499, -1)]:
    before = schedule.alpha_bar[t_next] if t_next >= 0 else torch.tensor(1.0).double()
    alpha = schedule.alpha_bar[t] / before  # what one step of the sub-chain keeps
    scale = 1 / (1 - schedule.alpha_bar[t])
    c_0, c_x = before.sqrt() * (1 - alpha) * scale, alpha.sqrt() * (1 - before) * scale
    variance = (1 - alpha) * (1 - before) * scale
    x_hat = perfect(x_t, t)
    mean = schedule.ddim_step(x_t, x_hat, t, t_next, 1.0, torch.zeros_like(x_t))
    one_off = schedule.ddim_step(x_t, x_hat, t, t_next, 1.0, torch.ones_like(x_t)) - mean
    torch.testing.assert_close(mean, c_0 * x_hat + c_x * x_t)
    torch.testing.assert_close(one_off.square(), variance.expand(5, 2))
    if t_next == t - 1:  # neighbours: DDPM's own posterior
        ddpm = torch.tensor(schedule.posterior(t), dtype=torch.float64)
        torch.testing.assert_close(torch.stack([c_0, c_x, variance]), ddpm)
    numbers = f"{c_0:.4f} x_0 + {c_x:.4f} x_t, variance {variance:.5f}"
    print(f"{t} -> {t_next:3d}: eta = 1 is the posterior, {numbers}")


# %%
def sample(s, eta=0.0, n=400, generator=None, first=None):
    """Returns the path [s + 1, n, 2] of n points, from pure noise (`first`, if given) to sample."""
    generator = generator or torch.Generator().manual_seed(seed)
    z = torch.randn(s + 1, n, 2, generator=generator, dtype=torch.float64)
    path, grid = [z[0] if first is None else first], schedule.grid(s)
    for i, (t, t_next) in enumerate(zip(grid, [*grid[1:], -1], strict=True)):
        x_hat = perfect(path[-1], t)
        path.append(schedule.ddim_step(path[-1], x_hat, t, t_next, eta, z[i + 1]))
    return torch.stack(path)


def clouds(ax, title):
    """Draws the data, and a circle of two widths around each centre."""
    ax.plot(*x_0.T, ".", color="0.8", markersize=2, label="data")
    for center in CENTER:
        ax.add_patch(
            plt.Circle(center, 2 * WIDTH, fill=False, color="0.2", linewidth=0.7, zorder=3)
        )
    ax.set(title=title, aspect="equal", xlabel="axis 1", ylabel="axis 2")
    ax.label_outer()


# %% alt="Two rows of five panels of points over grey clouds, each cloud with a circle of two widths. With one step all points lie in one place between the clouds; with two they fill the triangle between the clouds; with five most are well inside a circle; with ten nearly all; with fifty they fill the circles. The lower row, with fresh noise, looks much the same"
figure, axes = plt.subplots(2, 5, figsize=(7.4, 4.2), sharex=True, sharey=True)
for row, eta in zip(axes, (0, 1), strict=True):
    for ax, s in zip(row, (1, 2, 5, 10, 50), strict=True):
        clouds(ax, rf"s = {s}, $\eta$ = {eta}")
        look = {"color": plot.COLORS["DM"], "markersize": 6 if s == 1 else 1.5}
        ax.plot(*sample(s, eta)[-1].T, ".", label="samples", **look)
figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncol=2, markerscale=4)
plt.show()

# %% alt="Paths of three points from a marked start to a sample in fifty steps, two runs each. Without fresh noise the two runs are one smooth curve; with it both jitter across the plane and end in different places"
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), sharex=True, sharey=True)
start = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
for ax, eta in zip(axes, (0, 1), strict=True):
    clouds(ax, rf"50 steps, $\eta$ = {eta}")
    for again, line in enumerate(("-", ":")):
        path = sample(50, eta, 3, torch.Generator().manual_seed(seed + again), start)
        for i, color in enumerate(("C0", "C1", "C2")):
            ax.plot(*path[:, i].T, line, color=color, linewidth=0.9)
            ax.plot(*path[0, i], "s", color=color, markersize=6)
            ax.plot(*path[-1, i], "o", color=color, markeredgecolor="black", zorder=4)
plt.show()

# %%
import pandas as pd

generator, many = torch.Generator().manual_seed(seed + 4), 20_000
first = torch.randn(many, 2, generator=generator, dtype=torch.float64)
sets, rows, cloud = {"data": truth(many, generator)}, {}, {}
for eta in (0, 1):
    for s in (5, 10, 50):
        sets[f"s = {s}, eta = {eta}"] = sample(s, eta, many, generator)[-1]
for again in (1, 2):
    sets[f"run {again} from one start"] = sample(50, 1, many, generator, first)[-1]
for name, x in sets.items():
    away, cloud[name] = torch.cdist(x, CENTER).min(1)
    near = away < 4 * WIDTH
    width = (away[near].square().mean() / 2).sqrt()
    rows[name] = [*(cloud[name].bincount() / many).tolist(), 1 - near.double().mean().item(), width]
columns = ["cloud 1", "cloud 2", "cloud 3", "astray", "width"]
print(pd.DataFrame(rows, columns).T.astype(float).to_string(float_format="{:.3f}".format))
same = (cloud["run 1 from one start"] == cloud["run 2 from one start"]).double().mean()
print(f"two runs from one start, eta = 1: {same:.3f} end in one cloud", end="; ")
print(f"by chance {WEIGHT.square().sum():.3f}")

# %% [markdown]
# **What to see** (first figure; circle: two widths around a centre). One step: 400 samples in a single place, the mean, where there are no data. Two: $U$ is asked again
# at $t = 499$, where several clouds are still possible, and answers with compromises between them. Five: most samples are in a cloud. The table counts 20,000:
#
# - *astray* (over 4 widths from every centre): 3 % at $s = 5$, 0.2 to 0.3 % at 10, 0.0 % at 50;
# - shares: off by up to 0.036 from $w_k$ = 0.5, 0.3, 0.2 at $s = 5$ and by at most 0.007 at 50; the data themselves by 0.006;
# - clouds too tight: 0.147 wide at $s = 5$, 0.190 ($\eta = 0$) and 0.176 ($\eta = 1$) at 50, not 0.2.
#
# **Paths** (square: start; dot: end; solid and dotted: two runs). $\eta = 0$: both runs are one curve, so the first noise decides everything. $\eta = 1$: two runs from one start
# end in the same cloud in 38.2 % of 20,000 cases, by chance 38.0 %: the start is forgotten.

# %% [markdown]
# ## 3. Two users, two answers
#
# Let one user want a sample from the right **distribution**, another the smallest **squared error** to a truth that the sampler has not seen.
#
# - Distribution: the *sliced Wasserstein distance*. Project both sets of points on a line, sort, take the mean distance of partners; average over 32 directions.
#   0 for equal sets; two draws from the same distribution give a little more, the *floor*, which is lower for larger sets. Here sets have 2,000 points.
# - Squared error, summed over both axes, as is $\mathrm{Var}$. A sample $x$ drawn independently of the truth $x_0$ has
#
# $$E\lvert x - x_0\rvert^2 = \lvert E x - E x_0\rvert^2 + \mathrm{Var}(x) + \mathrm{Var}(x_0)$$
#
# One step of a perfect $U$ answers $E x_0$, without variance: error $\mathrm{Var}(x_0)$, the least possible. A draw from the right distribution: $2\,\mathrm{Var}(x_0)$.
# So the first user wants many steps, the second exactly one. That no sample serves both is the *perception-distortion trade-off* (Blau and Michaeli, 2018).


# %%
def distance(x, y, directions=32):
    """Returns the sliced Wasserstein distance of two sets of points [n, 2]."""
    angle = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
    line = torch.stack([angle.cos(), angle.sin()])
    return ((x @ line).sort(0).values - (y @ line).sort(0).values).abs().mean().item()


# %%
from gmmt.results import mean_interval

set_size, repeats = 2000, run.pick(smoke=3, cpu=20)
grids, rows = (1, 2, 3, 5, 10, 20, 50), []
generator = torch.Generator().manual_seed(seed)
for eta in (0.0, 1.0):
    for s in grids:
        measured = []
        for _ in range(repeats):
            x, y = sample(s, eta, set_size, generator)[-1], truth(set_size, generator)
            measured.append((distance(x, y), (x - y).square().sum(1).mean().item()))
        for name, values in zip(("distance", "error"), zip(*measured, strict=True), strict=True):
            rows.append((f"eta = {eta:g}", s, name, *vars(mean_interval(values)).values()))
floor = mean_interval(
    [distance(truth(set_size, generator), truth(set_size, generator)) for _ in range(repeats)]
)
columns = ["sampler", "s", "measure", "value", "low", "high", "n"]
points = pd.DataFrame(rows, columns=columns)

# %% alt="Left, distance to the true distribution falls with the number of steps for both etas, to a little above a grey band. Right, squared error rises with the number of steps from the variance of the data to a little below twice that"
mean = (WEIGHT[:, None] * CENTER).sum(0)
var_0 = ((WEIGHT * (CENTER - mean).square().sum(1)).sum() + 2 * WIDTH**2).item()  # both axes
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9))
for ax, measure in zip(axes, ("distance", "error"), strict=True):
    for name, part in points[points.measure == measure].groupby("sampler"):
        bars = [part.value - part.low, part.high - part.value]
        ax.errorbar(part.s, part.value, bars, marker="o", capsize=2, label=name)
    ax.set(xscale="log", xlabel="steps s", xticks=grids, xticklabels=grids, ylim=(0, None))
axes[0].axhspan(floor.low, floor.high, color="0.8", label="floor", zorder=0)
for times in (1, 2):
    axes[1].axhline(times * var_0, color="0.4", linestyle=":")
axes[0].set(title="For a distribution: many steps", ylabel="distance to the truth")
axes[1].set(title="For a squared error: one", ylabel="squared error")
axes[0].legend()
plt.show()


# %%
def with_intervals(table, index, columns, form=".3f"):
    """Returns the table's values with their intervals as text, spread over index and columns."""
    numbers = zip(table.value, table.low, table.high, strict=True)
    text = [f"{value:{form}} [{low:{form}}, {high:{form}}]" for value, low, high in numbers]
    wide = table.assign(text=text).pivot_table("text", index, columns, aggfunc="first")
    return wide.to_string(na_rep="")


print(with_intervals(points, "s", ["measure", "sampler"]))
print(f"floor {floor.value:.3f} [{floor.low:.3f}, {floor.high:.3f}]")
print(f"Var(x_0) = {var_0:.3f}, twice that {2 * var_0:.3f}")

# %% [markdown]
# **What to see** (dots: mean over 20 pairs of sets, 3 under smoke; lines and brackets: 95 % interval, from 2,000 bootstrap resamples of the pairs, mostly smaller than the dots;
# grey band: the floor's interval; dotted: $\mathrm{Var}(x_0)$ and twice that). The distance falls from 0.88 to 0.04 at $s = 50$. That is near the floor, 0.030, not at it: both
# intervals lie above 0.030, though they overlap the floor's own. The squared error rises from $\mathrm{Var}(x_0)$ to nearly twice that; at $s = 50$ both intervals are still below
# 4.115. From 3 to 20 steps $\eta = 0$ is nearer to the truth than $\eta = 1$; at 50 they are alike.
#
# **So $s$ sets a place between two aims: more steps bring the distribution nearer and cost squared error.** Whether another sampler would do better between the two ends is not tested here.

# %% [markdown]
# ## 4. A third sampler: the supplement's recursion
#
# The supplement's test-time pseudo code (Table 1) is shorter than DDIM: compute $fused^* = U(z, \ldots)$, put $fused^*$ in the place of $z$, repeat $s$ times. **No
# noise is mixed back in.** It does not say which $t$ each call is told; here it is DDIM's grid:
#
# $$x \leftarrow \hat x_0(x, t), \qquad t = 999, \ldots$$
#
# At $s = 1$ all samplers agree. Beyond, $U$ is shown what it has never seen: at step $t$ it expects $\sqrt{\bar\alpha_t}\,x_0$ plus noise and gets a clean map at full
# strength.

# %% tags=["nbval-check-output"]
from gmmt.fusion import DiffusionFusion


class Perfect(torch.nn.Module):
    """The formula of section 1 in the place of U: features [n, 2, 1, 1], one t for all."""

    def forward(self, x, t, *features):
        return perfect(x.flatten(1).double(), int(t[0])).to(x).reshape(x.shape)


fusion, given = DiffusionFusion(Perfect(), channels=2), torch.zeros(1000, 2, 1, 1)
for s in (1, 2, 5, 10, 50):
    ours = fusion.sample(
        given, given, steps=s, sampler="recursion", generator=torch.Generator().manual_seed(0)
    )
    x = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).flatten(1).double()
    for t in schedule.grid(s):
        x = perfect(x, t)
    torch.testing.assert_close(ours.flatten(1).double(), x, rtol=0, atol=1e-4)
    place = [round(c, 2) + 0.0 for c in x.mean(0).tolist()]
    assert (x - x.mean(0)).abs().max() < 1e-3
    print(f"s = {s:2d}: 1000 samples, all within 0.001 of {place}")

# %% alt="Three panels over grey clouds: samples of the recursion. With two steps all points fall on one place between the clouds, with ten and with fifty on one place near the centre of the left cloud"
figure, axes = plt.subplots(1, 3, figsize=(7.4, 3.1), sharex=True, sharey=True)
for ax, s in zip(axes, (2, 10, 50), strict=True):
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(seed)).double()
    visited = []
    for t in schedule.grid(s):
        x = perfect(x, t)
        visited.append(x.mean(0))
    clouds(ax, f"recursion, s = {s}")
    ax.plot(*x.T, "o", color=plot.COLORS["DM"], markersize=9)
    ax.plot(*torch.stack(visited).T, ".-", color="0.2", linewidth=0.8, markersize=3)
plt.show()

# %% [markdown]
# **What to see** (black: from call to call, beginning at the mean; pink: the end, where all 400 samples lie). With a perfect $U$ the recursion is **not a sampler at all**. Its first
# call forgets the noise (section 1: but for 0.0002), so all samples become the same point, the mean; every later call is a function of that point, and draws nothing.
#
# At $s = 2$ it ends between the clouds, at [-0.27, -0.27]. At $s = 5$ it stops short of the centre of the left cloud, [-1, -0.4], at 10 and 50 a little beyond it, because $U$ takes the
# full-strength point for a faded one. The left cloud is the nearest to the mean, and the heaviest; the other two are never produced, whatever the noise. For the squared error
# the first call was the best answer.

# %% [markdown]
# ## 5. A trained fusion
#
# Now a network, and conditions. The scenes, which play the part of $fused$, are those of notebook 01: one bright disc on 16 x 16 cells; camera 1 sees the left 5 columns, camera 2
# the right 5. **Hidden**: no cell of the disc is in these columns, and all such scenes give $U$ the same features. **Seen**: all others, even if only an edge cell is visible.
# A perfect $U$, $E[x_0 \mid x_t, \text{features}]$, would give on hidden scenes:
#
# - in one step the *average of all hidden scenes*: no spread, and as squared error their variance $V$;
# - as a draw from the right distribution one disc: spread $V$, squared error $2V$.
#
# *Spread*: variance over 4 draws of the noise for the same scene. Error, spread and $V$ are means over cells. *SSIM* (structural similarity, scikit-image's)
# compares mean, variance and correlation of $fused^*$ and its own $fused$ in windows of 7 x 7 cells: 1 if equal.

# %%
from gmmt.data.toys import half_blind
from gmmt.networks.unet import UNet

n_steps, rate = run.pick(smoke=20, cpu=600, gpu=5000), 3e-3
torch.manual_seed(seed)
model = DiffusionFusion(UNet(channels=1, n_blocks=3, inner=16, groups=4), channels=1)
draws, noises = run.generator(), torch.Generator().manual_seed(seed + 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0)
plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, n_steps)
for _ in range(n_steps):
    scene, f_1, f_2, _ = half_blind(32, draws)
    loss = model.loss(scene, f_1, f_2, generator=noises)[1]["dm"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    plan.step()
print(f"loss of the last batch: {loss.item():.4f}, after {n_steps} steps")

# %%
test = half_blind(4000, torch.Generator().manual_seed(10_000))
n_each = run.pick(smoke=6, cpu=40)
pick = {"seen": (~test[3]).nonzero()[:n_each, 0], "hidden": test[3].nonzero()[:n_each, 0]}
chosen = torch.cat(list(pick.values()))
scene, f_1, f_2 = (v[chosen].repeat(4, 1, 1, 1) for v in test[:3])  # 4 noise draws of each
samplers = {
    "eta = 0": ({"eta": 0.0}, (1, 2, 5, 10, 50)),
    "eta = 1": ({"eta": 1.0}, (2, 5, 10, 50)),
    "recursion": ({"sampler": "recursion"}, (2, 5, 10)),
}
outputs = {}
with torch.no_grad():
    for name, (options, numbers) in samplers.items():
        for s in numbers:
            generator = torch.Generator().manual_seed(seed + 3)
            outputs[name, s] = model.sample(f_1, f_2, steps=s, generator=generator, **options)
for name in ("eta = 1", "recursion"):
    outputs[name, 1] = outputs["eta = 0", 1]  # the same by definition

# %% alt="Samples of three scenes, for one, two, ten and fifty steps and for the recursion. Hidden disc, four draws: with one step a smear along the strip, with ten or more one disc, at different places; three of the four draws of the recursion are nearly the same. Seen disc: right in every draw. Barely seen disc: a smear with one step, a disc in the strip with more"
watched = [c for c in range(16) if not 5 <= c < 11]  # the columns that a camera sees
light = (scene[:n_each, 0] + 1)[:, :, watched].sum((1, 2))
blocks = [("hidden", n_each, 4, 0), ("seen", 0, 2, 5), ("barely seen", light.argmin().item(), 2, 8)]
kinds = [("eta = 0", 1), ("eta = 0", 2), ("eta = 0", 10), ("eta = 1", 50), ("recursion", 10)]
widths = [1, 1, 1, 1, 0.2, 1, 1, 0.2, 1, 1]
figure, axes = plt.subplots(6, 10, figsize=(7.4, 4.4), width_ratios=widths)
for ax in axes.flat:
    ax.set_axis_off()
for title, scene_number, n_draws, column in blocks:
    rows = [[scene[scene_number]]] + [outputs[k][scene_number :: 2 * n_each] for k in kinds]
    for line, maps in zip(axes[:, column:], rows, strict=True):
        for ax, x in zip(line, maps[:n_draws], strict=False):
            image = ax.imshow(x[0], vmin=-1, vmax=1)
    axes[0, column].set_title(title, fontsize=9)
for ax, label in zip(axes[:, 0], ["fused", *(f"{k}, s = {s}" for k, s in kinds)], strict=True):
    ax.text(-2, 8, label, ha="right", va="center", fontsize=8)
figure.colorbar(image, ax=axes, label="value of a cell", shrink=0.5, aspect=15)
plt.show()

# %%
from skimage.metrics import structural_similarity

rows, changes, first = [], [], {}
for name, s in sorted(outputs, key=lambda key: key[1]):  # s = 1 comes first
    out = outputs[name, s]
    pairs = zip(out[:, 0].double().numpy(), scene[:, 0].double().numpy(), strict=True)
    similar = torch.tensor([structural_similarity(x, y, data_range=2) for x, y in pairs])
    each = {
        "error": (out - scene).square().mean((1, 2, 3)).reshape(4, -1).mean(0).double(),
        "spread": out.reshape(4, -1, 256).var(0).mean(1).double(),
        "SSIM": similar.reshape(4, -1).mean(0).double(),
    }
    for measure, values in each.items():
        change = values - first.setdefault((name, measure), values)  # paired, scene by scene
        for to, per_scene in ((rows, values), (changes, change)):
            for which, part in zip(pick, per_scene.split(n_each), strict=True):
                estimate = vars(mean_interval(part.numpy())).values()
                to.append((which, measure, name, s, *estimate))
columns = ["scenes", "measure", "sampler", "s", "value", "low", "high", "n"]
table, change = (pd.DataFrame(r, columns=columns) for r in (rows, changes))

# %%
V = test[0][test[3]].var(0).mean().item()  # of all hidden scenes
print(f"V = {V:.4f}, 2 V = {2 * V:.4f}, from {int(test[3].sum())} hidden scenes")
for (which, measure), part in table.query("s in (1, 5, 10, 50)").groupby(["scenes", "measure"]):
    print(f"\n{which}: {measure}\n" + with_intervals(part, "sampler", "s"))
paired = change.query("s == 10 and measure != 'spread'")
print("\ns = 10 minus s = 1, scene by scene")
print(with_intervals(paired, ["scenes", "measure"], "sampler", "+.3f"))
heavy = (outputs["eta = 0", 10] - scene).square().mean((1, 2, 3)).reshape(4, -1).mean(0)[:n_each]
most = heavy.argsort(descending=True)[: max(1, n_each // 10)]
print(f"\na tenth of the seen scenes carries {heavy[most].sum() / heavy.sum():.0%} of their error")
print(f"visible light: {light[most].mean():.1f} in these, {light.mean():.1f} on average")

# %% alt="Squared error, spread and change of SSIM against the number of steps, for hidden scenes above and seen scenes below, for three samplers. Hidden: error and spread rise to about 2 V and V, the dotted lines, less for the recursion; SSIM goes up and down. Seen: wide intervals of error and spread; SSIM rises"
figure, axes = plt.subplots(2, 3, figsize=(7.4, 4.6))
for row, which in zip(axes, ("hidden", "seen"), strict=True):
    for ax, measure in zip(row, ("error", "spread", "SSIM"), strict=True):
        part = (change if measure == "SSIM" else table).query(
            "scenes == @which and measure == @measure"
        )
        for i, (name, p) in enumerate(part.groupby("sampler")):
            bars, look = [p.value - p.low, p.high - p.value], {"markersize": 4, "capsize": 2}
            ax.errorbar(p.s * 1.07**i, p.value, bars, marker="os^"[i], label=name, **look)
        ax.set(xscale="log", xticks=(1, 2, 5, 10, 50), xticklabels=(1, 2, 5, 10, 50))
        ax.set(title=f"{which}: {measure}", xlabel="steps s", ylim=(0, None))
        if measure == "SSIM":
            ax.axhline(0, color="0.4", linewidth=0.8)
            ax.set_title(f"{which}: change of SSIM")
            ax.autoscale(axis="y")
for ax, height in ((axes[0, 0], V), (axes[0, 0], 2 * V), (axes[0, 1], V)):
    ax.axhline(height, color="0.4", linestyle=":")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
plt.show()

# %% [markdown]
# **What to see** (dots: mean over 40 scenes, each the mean over 4 draws; lines: 95 % bootstrap interval over the scenes; change of SSIM: from $s = 1$, paired; dotted: $V$ and $2V$, estimated from the 698 hidden scenes, of which
# 40 are tested). **Hidden:** error and spread start near $V$ and 0 and rise within five steps. With $\eta = 0$ they agree with $2V$ and $V$ from $s = 10$. With $\eta = 1$ the spread stays a little
# below $V$; the error agrees with $2V$ at $s = 10$ and is below it at 50 (0.213, interval up to 0.231). At $s = 1$ the spread is 0.008, not 0 as with a perfect $U$.
#
# **SSIM** does not grow steadily there. From 1 to 10 steps its change is undecided for $\eta = 0$ and the recursion (interval on both sides of 0), and a fall for $\eta = 1$.

# %% [markdown]
# **Seen:** SSIM is higher at $s = 10$ than at $s = 1$ for all three samplers (+0.02 to +0.05, intervals above 0). The squared error is not lower: for $\eta = 0$ it is higher (+0.011, interval
# above 0), for the other two undecided. A tenth of the scenes carries 90 % of it ($\eta = 0$, $s = 10$), those of which almost nothing is visible (light 0.4, on average 13.7); in the picture
# $U$ smears such a disc at $s = 1$ as it does a hidden one.
#
# **The recursion** has much spread with this $U$, where with a perfect one it would have none: on hidden scenes 0.093 at $s = 5$ and 0.089 at 10 (73 % of $V$). It draws no noise after the first call,
# so its draws differ by what that call left over, a fifteenth of $V$, which the later calls enlarge. In the picture three of four draws are nearly the same disc. Likely it draws at all because
# $U$ is not perfect; that is not tested here.

# %% [markdown]
# ## 6. What the paper reports
#
# **Fig. 5** shows maps along *one* run of $s = 10$ steps, from $t = 999$ to 99, each with its SSIM to $fused$; whether they are $x_t$ or $\hat x_0$ is not said. The paper's text reads them as
# "with $s$ becomes larger, the generated features are more similar to the
# original fused features". Section 5 measures final maps of runs with different $s$, which is the same only at the ends, and only
# if the paper's maps are $\hat x_0$: all runs here begin with the same noise, so that the map for $s = 1$ is also the first $\hat x_0$ of the run with $s = 10$.
#
# **Table 4** of the supplement varies $s$ for the paper's Siamese tracker on GTOT, a test set of RGB and thermal videos. PR is the share of frames whose box has its centre within 5 px of the truth, SR the
# area under the curve of overlap ([10](10_metrics.ipynb)); both in percent.

# %% tags=["nbval-check-output"]
from gmmt import results

numbers = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 20, 30, 40)
cell = ("supp Table 4", "GTOT", "Siamese+GMMT(DM)")
by_metric = {
    metric: {s: float(results.printed(*cell, metric, setting=f"s={s}")) for s in numbers}
    for metric in ("PR", "SR")
}
print(pd.DataFrame(by_metric).rename_axis("s").T.to_string())

# %% [markdown]
# $s = 1$ is best in both rows. The other twelve do not fall steadily: PR at $s = 40$ is 0.1 below the best. No interval is printed. The paper takes $s = 1$, for speed.
#
# What does a perfect $U$ predict? That one step has the least *squared error*, and that with growing $s$ the *distribution* comes near the right one while the squared error grows. It predicts no
# growth of SSIM, which compares each map with its own truth, not distributions; nor does it forbid one, for one step is the best in squared error, not in SSIM. In section 5 SSIM grew from
# $s = 1$ to 10 on seen scenes and not on hidden ones. None of this explains Table 4: a tracker's head is neither of the two users.

# %%
both = pd.concat([table, points.assign(scenes="mixture")], ignore_index=True)
saved = run.save(
    both[columns], "steps.csv", source="ours in miniature: mixture, half-blind cameras"
)
hidden = table.query("scenes == 'hidden' and measure == 'error' and sampler == 'eta = 0'")
line = ", ".join(f"s = {s} {v:.3f}" for s, v in zip(hidden.s, hidden.value, strict=True))
run.headline(f"hidden disc, MSE: {line}; V = {V:.3f}, 2 V = {2 * V:.3f}")

# %% [markdown]
# ## Side by side
#
# | | paper | released code | here |
# |---|---|---|---|
# | sampler | posterior (Eq. 3), "DDIM" (supp. Table 2), recursion (supp. Table 1) | DDIM, $\eta = 1$ | DDIM, $\eta = 0$ and 1; recursion |
# | $U$ is asked at | 999 ... 99 at $s = 10$ | `linspace(-1, 999, s + 1)` reversed | the same |
# | $s$ | 1 | 1 | 1 to 50 |
# | spread of $fused^*$ over the noise at $s = 1$ | not said | not measured here | 0.008 on hidden discs ($V$ = 0.121) |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# Average $j$ independent draws from the right distribution and give the average as the answer. Its squared error, in units of $\mathrm{Var}(x_0)$? What $j$ does one need to be
# within 5 % of the least possible error?

# %%
answer = None  # (error as a function of j, smallest j)

# %% tags=["solution"]
answer = (lambda j: 1 + 1 / j, 20)

# %%
assert answer is not None, "no answer yet"
generator = torch.Generator().manual_seed(0)
average = torch.stack([truth(20_000, generator) for _ in range(4)]).mean(0)
measured = (average - truth(20_000, generator)).square().sum(1).mean().item() / var_0
assert abs(answer[0](4) - measured) < 0.05, "measured with j = 4 on the mixture of section 1"
assert answer[0](answer[1]) <= 1.05 < answer[0](answer[1] - 1), "one k less is not enough"

# %% [markdown]
# ## What follows, and what this does not show
#
# - Nothing here is about **tracking**. A head trained on $fused^*$ may like a mean or a sample better; neither of the two users is a tracker. Notebook 14 is for that.
# - "One step is best" is what a perfect $U$ predicts for the squared error. "More steps resemble $fused$ more" is no prediction of section 3, where the squared error to the truth grows
#   with $s$. Neither tells why the paper's table looks as it does.
# - One network, one training run, one toy; the intervals cover test scenes and noise, not the luck of training.
#
# **Next:** [05, RAW, CGAN or DM: what does each learn?](05_three_losses.ipynb)
#
# **References.** Ho, Jain, Abbeel 2020 (DDPM). Song, Meng, Ermon 2021 (DDIM). Wang et al. 2004 (SSIM). Bonneel et al. 2015 (sliced Wasserstein). Blau, Michaeli 2018
# (perception and distortion). Tang et al. 2024 (GMMT).
