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
# **In one sentence:** it depends on what the sample is for: one step gives the conditional mean, which no sampler beats in squared error; tens of
# steps give draws from the right distribution, at up to twice that error.
#
# Paper: "Generative-Based Fusion Mechanism", Eq. (3), Fig. 5; supplement, Tables 1 and 4. Runs about 15 s (smoke), 2 to 3 min (cpu). Read before this:
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
schedule, SD = Schedule.cosine(1000), 0.2

# %% [markdown]
# ## The idea
#
# A sampler starts from noise and asks a network $U$ for the clean map at $s$ steps $t$. To see what $s$ does, and not what a half-trained network does,
# sections 1 to 4 use no network: data are points in the plane from a **mixture** of three round Gaussians, for which the best possible answer,
# $\hat x_0 = E[x_0 \mid x_t]$, has a formula (section 1). Section 5 trains a fusion.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $s$ | `s`, `steps` | int | calls of $U$ for one sample |
# | $x_t$, $\hat x_0$, $\hat z$ | `x_t`, `x_hat`, `z_hat` | (n, 2) | noisy points; predicted point and noise |
# | $\bar\alpha_t$ | `alpha_bar` | (T,) | share of the signal's variance left |
# | (not named) | `eta` | 0..1 | $\eta$: how much fresh noise a step draws |
# | $fused^*$ | `fused_star` | (B, C, H, W) | a sample, in GMMT |
# | (ours) | `W`, `M`, `SD` | (3,), (3, 2), 1 | weights, centres, width of the mixture |

# %% alt="Three grey clouds of points and, over them, arrows from noisy points to the best guess. At step 999 all arrows end in one point between the clouds; at 600 they end between the clouds or in them, at 200 in the clouds"
W = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
M = torch.tensor([[-1.0, -0.4], [1.3, -0.6], [0.55, 1.9]], dtype=torch.float64)


def ideal(x_t, t):
    """Returns E[x_0 | x_t] [n, 2] for points x_t [n, 2] of the mixture at step t."""
    a = schedule.alpha_bar[t]
    variance, offset = a * SD**2 + 1 - a, x_t[:, None] - a.sqrt() * M
    share = (W.log() - offset.square().sum(2) / (2 * variance)).softmax(1)
    return (share[:, :, None] * (M + a.sqrt() * SD**2 / variance * offset)).sum(1)


def truth(n, g):
    """Returns n points [n, 2] of the mixture itself, drawn with the generator g."""
    return M[W.multinomial(n, True, generator=g)] + SD * torch.randn(n, 2, generator=g).double()


x_0, generator = truth(400, run.generator()), torch.Generator().manual_seed(1)
figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7), sharex=True, sharey=True)
for ax, t in zip(axes, (999, 600, 200), strict=True):
    x_t = schedule.q_sample(x_0, t, torch.randn(400, 2, generator=generator).double())[:60]
    ax.plot(*x_0.T, ".", color="0.8", markersize=2)
    ax.quiver(*x_t.T, *(ideal(x_t, t) - x_t).T, color="C3", angles="xy", scale_units="xy", scale=1)
    ax.set(title=f"t = {t}", aspect="equal")
plt.show()

# %% [markdown]
# **What to see** (grey: the data; arrows: from $x_t$ to $\hat x_0$). At $t = 999$ nothing is left of the data, so every noisy point gets the same
# answer: the mean of all data, a place where *there are none*. At $t = 600$ the answer is a compromise between the clouds that are possible; at $t = 200$ it is a
# point in one cloud. A network trained by a squared error on $x_0$ aims at exactly these arrows.

# %% [markdown]
# ## 1. The best possible $U$
#
# Seen through the noise, cloud $k$ (weight $w_k$, centre $m_k$, width $\sigma$) is a Gaussian with centre $\sqrt{\bar\alpha_t}\,m_k$ and variance
# $c = \bar\alpha_t\sigma^2 + 1 - \bar\alpha_t$ in each direction. Which cloud did $x_t$ come from? By Bayes' rule, with probability
#
# $$r_k \propto w_k \exp\!\big(-\lvert x_t - \sqrt{\bar\alpha_t}\,m_k\rvert^2 / 2c\big)$$
#
# (the *responsibility*). Within a cloud, the mean of a Gaussian given a noisy measurement is the centre plus a share of the offset. Together:
#
# $$E[x_0 \mid x_t] = \sum_k r_k \Big(m_k + \frac{\sqrt{\bar\alpha_t}\,\sigma^2}{c}\,(x_t - \sqrt{\bar\alpha_t}\,m_k)\Big)$$
#
# The check knows nothing of this: it averages $x_0$ over a fine grid of the plane, each point weighted by how likely it is and how likely it leads to $x_t$.

# %% tags=["nbval-check-output"]
axis = torch.linspace(-4, 4, 801, dtype=torch.float64)
plane = torch.cartesian_prod(axis, axis)
density = sum(
    w * torch.exp(-(plane - m).square().sum(1) / (2 * SD**2)) for w, m in zip(W, M, strict=True)
)
x_t = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for t in (200, 600, 999):
    a, naive = schedule.alpha_bar[t], []
    for x in x_t:
        weight = density * torch.exp(-(x - a.sqrt() * plane).square().sum(1) / (2 * (1 - a)))
        naive.append((weight[:, None] * plane).sum(0) / weight.sum())
    torch.testing.assert_close(torch.stack(naive), ideal(x_t, t), rtol=0, atol=1e-6)
    apart = (ideal(x_t, t) - ideal(x_t, t)[0]).abs().max()
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
# $q(x_{t-1} \mid x_t, \hat x_0)$. Between distant steps it is the posterior of the *sub-chain*, which has only the grid's steps: one of its steps keeps
# $\bar\alpha_t / \bar\alpha_{t'}$ of the variance. At $s = 1$, $t'$ means clean, $\bar\alpha = 1$: then $\sigma = 0$, and $\eta$ does nothing. The released code has $\eta = 1$.

# %% tags=["nbval-check-output"]
for t, t_next in [(500, 499), (999, 998), (999, 499), (499, -1)]:
    before = schedule.alpha_bar[t_next] if t_next >= 0 else torch.tensor(1.0).double()
    alpha = schedule.alpha_bar[t] / before  # what one step of the sub-chain keeps
    scale = 1 / (1 - schedule.alpha_bar[t])
    c_0, c_x = before.sqrt() * (1 - alpha) * scale, alpha.sqrt() * (1 - before) * scale
    variance = (1 - alpha) * (1 - before) * scale
    x_hat = ideal(x_t, t)
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
def sample(s, eta=0.0, n=400, generator=None):
    """Returns the path [s + 1, n, 2] of n points from pure noise to the sample."""
    generator = generator or torch.Generator().manual_seed(seed)
    z = torch.randn(s + 1, n, 2, generator=generator, dtype=torch.float64)
    path, grid = [z[0]], schedule.grid(s)
    for i, (t, t_next) in enumerate(zip(grid, [*grid[1:], -1], strict=True)):
        x_hat = ideal(path[-1], t)
        path.append(schedule.ddim_step(path[-1], x_hat, t, t_next, eta, z[i + 1]))
    return torch.stack(path)


# %% alt="Two rows of five panels of points over grey clouds. With one step all points lie in one place between the clouds; with two they fill the triangle between the clouds; with five most are in a cloud, with ten and fifty nearly all. The lower row, with fresh noise, looks much the same"
figure, axes = plt.subplots(2, 5, figsize=(7.4, 3.6), sharex=True, sharey=True)
for row, eta in zip(axes, (0, 1), strict=True):
    for ax, s in zip(row, (1, 2, 5, 10, 50), strict=True):
        ax.plot(*x_0.T, ".", color="0.8", markersize=2)
        size = 6 if s == 1 else 2
        ax.plot(*sample(s, eta)[-1].T, ".", color=plot.COLORS["DM"], markersize=size)
        ax.set(title=rf"s = {s}, $\eta$ = {eta}", aspect="equal")
plt.show()

# %% alt="Paths of eight points from noise to sample in fifty steps. Without fresh noise they are smooth curves, with fresh noise they jitter"
figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.9), sharex=True, sharey=True)
for ax, eta in zip(axes, (0, 1), strict=True):
    path = sample(50, eta)[:, :8]
    ax.plot(*x_0.T, ".", color="0.85", markersize=2)
    for i in range(8):
        ax.plot(*path[:, i].T, linewidth=0.9)
        ax.plot(*path[-1, i], "o", color="black", markersize=3)
    ax.set(title=rf"50 steps, $\eta$ = {eta}", aspect="equal")
plt.show()

# %% [markdown]
# **What to see.** One step: 400 points in a single place, the mean, where there are no data. Two steps: $U$ is asked again at $t = 499$, where several clouds are still
# possible, and answers with compromises between them. Five: most points have found a cloud. Ten and more: three clouds, with the right shares by eye (section 3
# measures). $\eta$ hardly changes what comes out, but how: without fresh noise a path is a smooth curve and the first noise decides everything; with it, the path wanders,
# and where it started is soon forgotten.

# %% [markdown]
# ## 3. Two users, two answers
#
# Let one user want a sample from the right **distribution**, another the smallest **squared error** to a truth that the sampler has not seen.
#
# - Distribution: the *sliced Wasserstein distance*. Project both sets of points on a line, sort, take the mean distance of partners; average over 32 directions.
#   0 for equal sets; two draws from the same distribution give a little more, the *floor*.
# - Squared error. A sample $x$ drawn independently of the truth $x_0$ has
#
# $$E\lvert x - x_0\rvert^2 = \lvert E x - E x_0\rvert^2 + \mathrm{Var}(x) + \mathrm{Var}(x_0)$$
#
# One ideal step answers $E x_0$, without variance: error $\mathrm{Var}(x_0)$, the least possible. A perfect sampler: $2\,\mathrm{Var}(x_0)$. So with a perfect $U$ the
# first user wants many steps, the second exactly one.


# %%
def distance(x, y, directions=32):
    """Returns the sliced Wasserstein distance of two sets of points [n, 2]."""
    angle = torch.arange(directions, dtype=torch.float64) * torch.pi / directions
    line = torch.stack([angle.cos(), angle.sin()])
    return ((x @ line).sort(0).values - (y @ line).sort(0).values).abs().mean().item()


# %%
import pandas as pd

from gmmt.results import mean_interval

n, repeats = 2000, run.pick(smoke=3, cpu=20)
grids, rows = (1, 2, 3, 5, 10, 20, 50), []
generator = torch.Generator().manual_seed(seed)
for eta in (0.0, 1.0):
    for s in grids:
        measured = []
        for _ in range(repeats):
            x, y = sample(s, eta, n, generator)[-1], truth(n, generator)
            measured.append((distance(x, y), (x - y).square().sum(1).mean().item()))
        for name, values in zip(("distance", "error"), zip(*measured, strict=True), strict=True):
            rows.append((f"eta = {eta:g}", s, name, *vars(mean_interval(values)).values()))
floor = [distance(truth(n, generator), truth(n, generator)) for _ in range(repeats)]
floor = mean_interval(floor)
columns = ["sampler", "s", "measure", "value", "low", "high", "n"]
points = pd.DataFrame(rows, columns=columns)

# %% alt="Left, distance to the true distribution falls with the number of steps for both etas. Right, squared error rises with the number of steps from the variance of the data to twice that"
mean = (W[:, None] * M).sum(0)
spread = ((W * (M - mean).square().sum(1)).sum() + 2 * SD**2).item()  # Var(x_0), both axes
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.9))
for ax, measure in zip(axes, ("distance", "error"), strict=True):
    for name, part in points[points.measure == measure].groupby("sampler"):
        bars = [part.value - part.low, part.high - part.value]
        ax.errorbar(part.s, part.value, bars, marker="o", capsize=2, label=name)
    ax.set(xscale="log", xlabel="steps s", xticks=grids, xticklabels=grids, ylim=(0, None))
axes[0].axhline(floor.value, color="0.4", linestyle=":")
for k in (1, 2):
    axes[1].axhline(k * spread, color="0.4", linestyle=":")
axes[0].set(title="For a distribution: many steps", ylabel="distance to the truth")
axes[1].set(title="For a squared error: one", ylabel="squared error")
axes[0].legend()
plt.show()

# %%
print(points.query("s in (1, 2, 5, 50)").to_string(index=False, float_format="{:.3f}".format))
print(f"floor {floor.value:.3f}; Var(x_0) = {spread:.3f}, twice that {2 * spread:.3f}")

# %% [markdown]
# **What to see** (dots: mean over 20 pairs of sets of 2,000 points, 3 under smoke; lines: 95 % interval over the pairs, mostly smaller than the dots. Dotted left: the
# floor; right: $\mathrm{Var}(x_0)$ and twice that). Both users are right. The distance falls to about a twentieth and at $s = 50$ is near the floor; the squared error
# doubles. From 3 to 10 steps $\eta = 0$ is nearer to the truth than $\eta = 1$. **There is no trade-off to be solved here, only a question: what is the sample for?** Two steps are
# a compromise that serves neither.

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


class Ideal(torch.nn.Module):
    """The formula of section 1 in the place of U: features [n, 2, 1, 1], one t for all."""

    def forward(self, x, t, *features):
        return ideal(x.flatten(1).double(), int(t[0])).to(x).reshape(x.shape)


fusion, given = DiffusionFusion(Ideal(), channels=2), torch.zeros(1000, 2, 1, 1)
for s in (1, 2, 5, 10, 50):
    ours = fusion.sample(
        given, given, steps=s, sampler="recursion", generator=torch.Generator().manual_seed(0)
    )
    x = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).flatten(1).double()
    for t in schedule.grid(s):
        x = ideal(x, t)
    torch.testing.assert_close(ours.flatten(1).double(), x, rtol=0, atol=1e-4)
    place = [round(c, 2) + 0.0 for c in x.mean(0).tolist()]
    assert (x - x.mean(0)).abs().max() < 1e-3
    print(f"s = {s:2d}: 1000 samples, all within 0.001 of {place}")

# %% alt="Three panels over grey clouds: samples of the recursion with two, ten and fifty steps, in each of which all points fall on one place"
figure, axes = plt.subplots(1, 3, figsize=(7, 2.6), sharex=True, sharey=True)
for ax, s in zip(axes, (2, 10, 50), strict=True):
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(seed)).double()
    visited = []
    for t in schedule.grid(s):
        x = ideal(x, t)
        visited.append(x.mean(0))
    ax.plot(*x_0.T, ".", color="0.8", markersize=2)
    ax.plot(*torch.stack(visited).T, ".-", color="0.4", linewidth=0.8, markersize=3)
    ax.plot(*x.T, "o", color=plot.COLORS["DM"], markersize=5)
    ax.set(title=f"recursion, s = {s}", aspect="equal")
plt.show()

# %% [markdown]
# **What to see** (grey line: from call to call). With an ideal $U$ the recursion is **not a sampler at all**. Its first call forgets the noise, so all samples become the same
# point, the mean; every later call is a function of that point, and draws nothing. For $s > 1$ it walks into one cloud, the nearest and heaviest, and stays there: two of three
# clouds are never produced, whatever the noise. Nor is it the best answer in squared error; that was the first call. It acts as a search for *one typical point*.
# (It stops a little beyond the centre of the cloud, because $U$ takes the full-strength point for a faded one.)

# %% [markdown]
# ## 5. A trained fusion
#
# Now a network, and conditions. The scenes are those of notebook 01: one bright disc on 16 x 16 cells; camera 1 sees the left 5 columns, camera 2 the right 5, the strip
# between them neither. When the disc is in the strip (**hidden**), both features are dark, so all hidden scenes look alike to $U$, and the exact answers are known:
#
# - the best answer in the mean square is the *average of all hidden scenes*; its error is their variance $V$;
# - a perfect sampler draws one disc: spread over noise draws $V$, squared error $2V$;
# - with one step, a perfect $U$ has *no* spread, because at $t = 999$ noise tells nothing.
#
# *Spread*: variance over 4 draws of the noise for the same scene, averaged over cells and scenes. *SSIM* (structural similarity) compares mean,
# variance and correlation in windows, here 7 x 7: 1 if equal.


# %%
def half_blind(n, generator, size=16, gap=6, radius=2.0):
    """Returns scenes [n, 1, size, size] in -1..1, what each camera sees, which discs are hidden."""
    axis = torch.arange(size).float()
    center = torch.rand(n, 2, generator=generator) * (size - 5) + 2
    rows, columns = axis[:, None] - center[:, :1, None], axis - center[:, 1:, None]
    distance = (rows**2 + columns**2).sqrt()
    scene = ((radius - distance) * 2).clamp(-1, 1)[:, None]
    left, right = (axis < (size - gap) / 2).float(), (axis >= (size + gap) / 2).float()
    f_1, f_2 = scene * left, scene * right
    hidden = ~((f_1 > -1) & (left > 0) | (f_2 > -1) & (right > 0)).flatten(1).any(1)
    return scene, f_1, f_2, hidden


def ssim(x, y, window=7):
    """Returns the structural similarity [n] of maps [n, 1, H, W] with values in -1..1."""
    pool = torch.nn.AvgPool2d(window, stride=1)
    mx, my, c_1, c_2 = pool(x), pool(y), (0.01 * 2) ** 2, (0.03 * 2) ** 2
    vx, vy, c = pool(x * x) - mx**2, pool(y * y) - my**2, pool(x * y) - mx * my
    brightness = (2 * mx * my + c_1) / (mx**2 + my**2 + c_1)
    return (brightness * (2 * c + c_2) / (vx + vy + c_2)).mean((1, 2, 3))


# %%
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

# %% alt="A hidden scene and four samples of it for one, two, ten and fifty steps and for the recursion"
kinds = [("eta = 0", 1), ("eta = 0", 2), ("eta = 0", 10), ("eta = 1", 50), ("recursion", 10)]
images = [[v[n_each, 0], *outputs[k][n_each :: 2 * n_each, 0]] for k in kinds for v in [scene]]
labels = [f"{name}, s = {s}" for name, s in kinds]
columns = ["fused", "draw 1", "draw 2", "draw 3", "draw 4"]
plot.image_grid(images, columns, labels, "One hidden disc, four draws", limits=(-1, 1), width=4.6)
plt.show()

# %%
rows = []
for (name, s), out in outputs.items():
    error = (out - scene).square().mean((1, 2, 3)).reshape(4, -1).mean(0)
    spreads = out.reshape(4, -1, 256).var(0).mean(1)
    similar = ssim(out, scene).reshape(4, -1).mean(0)
    for measure, values in (("error", error), ("spread", spreads), ("SSIM", similar)):
        for which, part in zip(pick, values.double().split(n_each), strict=True):
            e = mean_interval(part.numpy())
            rows.append((which, measure, name, s, *vars(e).values()))
columns = ["scenes", "measure", "sampler", "s", "value", "low", "high", "n"]
table = pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)
V = test[0][test[3]].var(0).mean().item()  # of all hidden scenes
heavy = (outputs["eta = 0", 10] - scene).square().mean((1, 2, 3)).reshape(4, -1).mean(0)[:n_each]
top = heavy.sort(descending=True).values[: n_each // 10].sum() / heavy.sum()
print(f"a tenth of the seen scenes carries {top:.0%} of their error (s = 10)")
print(f"V = {V:.4f} from {int(test[3].sum())} hidden scenes")
shown = table.query("s in (1, 10, 50)").drop(columns="n")
print(shown.to_string(index=False, float_format="{:.4f}".format))
gain = (ssim(outputs["eta = 0", 10], scene) - ssim(outputs["eta = 0", 1], scene)).reshape(4, -1)
for which, part in zip(pick, gain.mean(0).double().split(n_each), strict=True):
    e = mean_interval(part.numpy())
    interval = f"{e.low:+.3f} to {e.high:+.3f}, n = {e.n}"
    print(f"SSIM, s = 10 minus s = 1, {which}: {e.value:+.3f} ({interval})")

# %% alt="Squared error, spread and SSIM against the number of steps, for hidden scenes above and seen scenes below, for three samplers, with the exact values as dotted lines"
figure, axes = plt.subplots(2, 3, figsize=(7.4, 4.4))
for row, which in zip(axes, ("hidden", "seen"), strict=True):
    for ax, measure in zip(row, ("error", "spread", "SSIM"), strict=True):
        part = table.query("scenes == @which and measure == @measure")
        for (name, p), marker in zip(part.groupby("sampler"), "os^", strict=True):
            bars = [p.value - p.low, p.high - p.value]
            ax.errorbar(p.s, p.value, bars, marker=marker, capsize=2, label=name, markersize=4)
        ax.set(xscale="log", xticks=(1, 2, 5, 10, 50), xticklabels=(1, 2, 5, 10, 50))
        ax.set(title=f"{which}: {measure}", xlabel="steps s", ylim=(0, None))
for ax, heights in ((axes[0, 0], (V, 2 * V)), (axes[0, 1], (0, V))):
    for height in heights:
        ax.axhline(height, color="0.4", linestyle=":")
axes[0, 0].legend()
plt.show()

# %% [markdown]
# **What to see** (dots: mean over 40 scenes, each the mean over 4 draws; lines: 95 % interval over scenes; dotted: exact values). **Hidden:** as computed. Error and spread start near
# $V$ and 0 and rise nearly to $2V$ and $V$ within five steps. The spread at $s = 1$ is not quite 0: this $U$ has not fully learned to ignore its noise. **SSIM does not grow** there:
# from 1 to 10 steps ($\eta = 0$) its change has an interval on both sides of 0. A sharp disc in the wrong place is no more similar than a smear.

# %% [markdown]
# **Seen:** SSIM grows a little (the paired difference is above 0), as in the paper's Fig. 5, although the mean squared error does not fall with it. The intervals of the error are wide,
# since a tenth of the scenes carries 90 % of it; it favours no $s$.
#
# **The recursion** is a surprise: with this $U$ it has much spread, where an ideal one has none. It draws no noise after the first call, so its draws can differ only by what that call
# left over, about a fifteenth of $V$ in variance, and the later calls turn it into different discs. It works as a sampler here because $U$ is imperfect.

# %% [markdown]
# ## 6. What the paper reports
#
# The supplement's Table 4 varies $s$ on GTOT with the Siamese tracker; Fig. 5 shows maps along
# $s = 10$ steps, and the text says that their SSIM to `fused` grows with $s$.

# %% tags=["nbval-check-output"]
from gmmt import results

numbers = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 20, 30, 40)
cell = ("supp Table 4", "GTOT", "Siamese+GMMT(DM)")
by_metric = {}
for metric in ("PR", "SR"):
    printed = [float(results.printed(*cell, metric, setting=f"s={s}")) for s in numbers]
    by_metric[metric] = dict(zip(numbers, printed, strict=True))
    best = max(printed)
    others, where = f"{min(printed[1:])} to {max(printed[1:])}", numbers[printed.index(best)]
    print(f"{metric}: s = 1 {printed[0]}, the other twelve {others}; best at s = {where}")

# %% [markdown]
# $s = 1$ is best in both columns. The other twelve do not fall steadily: PR at $s = 40$ is 0.1 below the best. No interval is printed, and $s$ was chosen on the data it is reported on.
#
# A perfect $U$ would give the squared-error user his best answer at $s = 1$, and the user of the distribution ever more similar *statistics* with growing $s$; both are in line
# with the paper's two observations. They are not evidence for them: a tracker's head is neither user.

# %%
both = pd.concat([table, points.assign(scenes="mixture")], ignore_index=True)
saved = run.save(
    both[columns], "steps.csv", source="ours in miniature: mixture, half-blind cameras"
)
hidden = table.query("scenes == 'hidden' and measure == 'error' and sampler == 'eta = 0'")
line = ", ".join(f"s = {s} {v:.3f}" for s, v in zip(hidden.s, hidden.value, strict=True))
run.headline(f"hidden disc, MSE: {line}; ideal {V:.3f} for one step, {2 * V:.3f} for a sampler")

# %% [markdown]
# ## Side by side
#
# | | paper | released code | here |
# |---|---|---|---|
# | sampler | posterior (Eq. 3), "DDIM" (supp. Table 2), recursion (supp. Table 1) | DDIM, $\eta = 1$ | DDIM, $\eta = 0$ and 1; recursion |
# | $U$ is asked at | 999 ... 99 at $s = 10$ | `linspace(-1, 999, s + 1)` reversed | the same |
# | $s$ | 1 | 1 | 1 to 50 |
# | fused* and noise at $s = 1$ | not said | depends on $U$ only | spread measured |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# Average $k$ independent samples of a perfect sampler and give the average as the answer. Its squared error, in units of $V$?  What $k$ does one need to be within 5 % of
# the best possible error?

# %%
answer = None  # (error as a function of k, smallest k)

# %% tags=["solution"]
answer = (lambda k: 1 + 1 / k, 20)

# %%
assert answer is not None, "no answer yet"
generator = torch.Generator().manual_seed(0)
average = torch.stack([truth(20_000, generator) for _ in range(4)]).mean(0)
measured = (average - truth(20_000, generator)).square().sum(1).mean().item() / spread
assert abs(answer[0](4) - measured) < 0.05, "measured with k = 4 on the mixture of section 1"
assert answer[0](answer[1]) <= 1.05 < answer[0](answer[1] - 1), "one k less is not enough"

# %% [markdown]
# ## What follows, and what this does not show
#
# - Nothing here is about **tracking**. A head trained on $fused^*$ may like a mean or a sample better; neither of the two users is a tracker. Notebook 14 is for that.
# - "One step is best" and "more steps resemble `fused` more" are both what a perfect $U$ predicts, the first for a squared-error user, the second for a user of the
#   distribution. Neither proves that the paper's $U$ was perfect, or that this is why its table looks as it does.
# - One network, one training run, one toy; the intervals cover test scenes and noise, not the luck of training.
#
# **Next:** 05, the three losses RAW, CGAN and DM.
#
# **References.** Ho, Jain, Abbeel 2020 (DDPM). Song, Meng, Ermon 2021 (DDIM). Wang et al. 2004 (SSIM). Bonneel et al. 2015 (sliced Wasserstein). Tang et al. 2024 (GMMT).
