# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does each loss weigh?
#
# **In one sentence:** predicting $x_0$, the noise or $v$ weighs one and the same error differently at each step $t$, and the released code's loss
# gives the only step that is used at test, $t = 999$, a weight of $2.4 \cdot 10^{-9}$, where a plain loss gives it 1.
#
# Paper: "Generative-Based Fusion Mechanism", Eqs. (2), (3) and (6). Runs about 20 s (smoke), 2 to 3 min (cpu). Read before this:
# [01](01_noise_schedule.ipynb), which explains the schedule, $x_t$ and the sampler.

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

run = notebook.start("02_prediction_targets", profile=profile, seed=seed)

# %% [markdown]
# ## The idea
#
# Notebook 01 mixed the fused features with noise: $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,z$. A network $U$ sees $x_t$ and both cameras'
# features and is trained by a squared error. On *what*? Whichever it names, the clean map, the noise, or a mixture called $v$, the others follow.
# What changes is how much an error **counts** at each step $t$.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $fused = x_0$, $\bar z_t$ | `x_0`, `noise` | (B, C, H, W) | clean features; unit Gaussian noise |
# | (not used) | `v` | (B, C, H, W) | $v = \sqrt{\bar\alpha_t}\,z - \sqrt{1-\bar\alpha_t}\,x_0$ |
# | $\hat x_0, \hat z, \hat v$ | `x_hat`, `z_hat`, `v_hat` | (B, C, H, W) | predictions |
# | $\bar\alpha_t$ | `alpha_bar` | (T,) | share of the signal's variance left |
# | $\bar\alpha_t/(1-\bar\alpha_t)$ | `snr()` | (T,) | signal-to-noise ratio, SNR |
# | $w_t$ | `weight_on_x_0` | (T,) | weight of $\lvert\hat x_0 - x_0\rvert^2$ in a loss |
#
# *Plain* means: the squared error of the thing predicted, with nothing in front of it.

# %% alt="Weights over the step t on a logarithmic axis. For x_0 it is one everywhere, for the noise it falls from 24,000 to two billionths, for v it falls from 24,000 to one"
schedule = Schedule.cosine(1000)
weights = {target: schedule.weight_on_x_0(target) for target in ("x_0", "noise", "v")}
figure, ax = plt.subplots(figsize=(6.4, 2.9))
title = "One error, three weights"
plot.lines(ax, range(1000), weights, "step t", r"weight of $|\hat x_0 - x_0|^2$", title)
ax.set_yscale("log")
ax.axvline(999, color="0.4", linestyle=":")
ax.text(990, 3e-7, "the only step\nused at s = 1", ha="right", fontsize=8)
plt.show()

# %% [markdown]
# **What to see.** Predicting $x_0$ treats all steps alike. Predicting the noise counts errors at small $t$, where the answer is nearly visible in
# $x_t$, up to 24,000 times, and errors at $t = 999$, where nothing is visible, two billionths of a time. $v$ has the first habit but not the second:
# its weight never falls below 1. Sections 1 to 3 derive the three curves; section 6 measures what they do to a network.

# %% [markdown]
# ## 1. Three names for one answer
#
# Eq. (2) has two unknowns once $x_t$ is known. Solved for each of them:
#
# $$\hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\hat z}{\sqrt{\bar\alpha_t}}, \qquad
# \hat z = \frac{x_t - \sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1-\bar\alpha_t}}$$
#
# Put $\sqrt{\bar\alpha_t} = \cos\varphi$ and $\sqrt{1-\bar\alpha_t} = \sin\varphi$. Then $x_t = \cos\varphi\, x_0 + \sin\varphi\, z$ is a rotation of the pair $(x_0, z)$, and
# $v = \cos\varphi\, z - \sin\varphi\, x_0$ is its other half (Salimans and Ho, 2022). Rotating back divides by nothing:
#
# $$\hat x_0 = \sqrt{\bar\alpha_t}\; x_t - \sqrt{1-\bar\alpha_t}\; \hat v$$

# %% tags=["nbval-check-output"]
x_0, noise = torch.randn(
    2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
x_0, noise = x_0[None], noise[None]
for t in (0, 500, 999):
    a = schedule.alpha_bar[t]
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
    v = a.sqrt() * noise - (1 - a).sqrt() * x_0
    torch.testing.assert_close(x_t, schedule.q_sample(x_0, t, noise))
    torch.testing.assert_close(v, schedule.predict_v(x_0, t, noise))
    torch.testing.assert_close((x_t - (1 - a).sqrt() * noise) / a.sqrt(), x_0)
    torch.testing.assert_close(schedule.predict_x_0(x_t, t, noise), x_0)
    torch.testing.assert_close(schedule.predict_noise(x_t, t, x_0), noise)
    torch.testing.assert_close(a.sqrt() * x_t - (1 - a).sqrt() * v, x_0)
    torch.testing.assert_close(schedule.x_0_from_v(x_t, t, v), x_0)
    divided = f"1/{a.sqrt():.4g} for noise, 1/{(1 - a).sqrt():.4g} for x_0"
    print(f"t = {t:3d}: x_0, noise and v give one another; the divisions are {divided}")

# %% [markdown]
# At $t = 999$, $v$ is $-x_0$ to four digits, and at $t = 0$ it is nearly the noise. So a network that predicts $v$ moves from the one task to the other
# as $t$ changes.
#
# ## 2. The weight of each
#
# Let a network be wrong by $e = \hat x_0 - x_0$. The true and the predicted pair both satisfy Eq. (2) with the *same* $x_t$, so the errors cancel in it:
# $\sqrt{\bar\alpha_t}\, e + \sqrt{1-\bar\alpha_t}\,(\hat z - z) = 0$. Hence
#
# $$\lvert\hat z - z\rvert^2 = \frac{\bar\alpha_t}{1-\bar\alpha_t}\,\lvert e\rvert^2, \qquad
# \lvert\hat v - v\rvert^2 = \Big(\tfrac{\bar\alpha_t}{\sqrt{1-\bar\alpha_t}} + \sqrt{1-\bar\alpha_t}\Big)^2 \lvert e\rvert^2 = \frac{1}{1-\bar\alpha_t}\,\lvert e\rvert^2$$
#
# The first factor is the SNR; the second is SNR + 1. The next cell makes an error of 1 and measures.

# %% tags=["nbval-check-output"]
print("   t     x_0       noise           v")
for t in (0, 10, 100, 250, 500, 750, 999):
    x_t, x_hat = schedule.q_sample(x_0, t, noise), x_0 + 1
    z_hat = schedule.predict_noise(x_t, t, x_hat)
    v_hat = schedule.predict_v(x_hat, t, z_hat)
    true_v = schedule.predict_v(x_0, t, noise)
    naive = [(x_hat - x_0), (z_hat - noise), (v_hat - true_v)]
    naive = torch.stack([error.square().mean() for error in naive])
    ours = torch.stack([weights[target][t] for target in ("x_0", "noise", "v")])
    torch.testing.assert_close(naive, ours, rtol=1e-5, atol=0)
    print(f"{t:4d}  {ours[0]:6.0f}  {ours[1]:10.3g}  {ours[2]:10.3g}")

# %% [markdown]
# ## 3. The loss of the released code
#
# The paper's text and Eq. (6) say that $U$ predicts the noise. In the released code $U$ predicts $x_0$; the noise is worked out from it, and the loss is
# the squared error of *that*. By section 2 this is
#
# $$\mathrm{Loss}_{released} = \frac{\bar\alpha_t}{1-\bar\alpha_t}\;\lvert\hat x_0 - x_0\rvert^2$$
#
# with $t$ drawn evenly from $0 \dots 999$. To check it against `DiffusionFusion(weighting="released")` we need no trained network: one that answers
# "zero" to everything has $\hat x_0 = 0$ and a loss that can be computed by hand.

# %% tags=["nbval-check-output"]
from gmmt.fusion import DiffusionFusion


class Zero(torch.nn.Module):
    """A network that always answers zero."""

    def forward(self, x_t, t, *features):
        return torch.zeros_like(x_t)


fusion = DiffusionFusion(Zero(), channels=4, weighting="released")
for t in (0, 500, 999):
    _, terms = fusion.loss_at(torch.tensor([t]), noise, x_0, x_0, x_0)
    naive = schedule.snr()[t] * x_0.square().mean()
    # The loss is taken in float32, as in training: at t = 999 two numbers near 1 cancel there.
    torch.testing.assert_close(terms["dm"].double(), naive, rtol=1e-4, atol=1e-8)
w = schedule.snr()
below = int((w < 1).nonzero()[0])
print(f"weight {w[0]:.3g} at t = 0, {w[999]:.2g} at t = 999; below 1 from t = {below}")
shares = w / w.sum()
print(f"share of the total weight: {shares[0]:.1%} at t = 0, {shares[:10].sum():.1%} at t < 10")
print(f"t >= 500 together: {shares[500:].sum():.2%}; t = 999: {shares[999]:.1g} of all")

# %% alt="Share of the total weight that lies below each step, on a logarithmic step axis. The noise and v curves start at 28 percent, pass half at the third step and are nearly complete at 100; the x_0 curve climbs only at the right end"
figure, ax = plt.subplots(figsize=(6.4, 2.8))
share = {target: torch.cumsum(weight, 0) / weight.sum() for target, weight in weights.items()}
title = "Half of the noise loss's weight lies on three of 1000 steps"
plot.lines(ax, range(1, 1001), share, "steps counted from t = 0", "share of the weight", title)
ax.set_xscale("log")
ax.axvline(10, color="0.4", linestyle=":")
plt.show()

# %% [markdown]
# **What to see** (dotted: $t < 10$). Of the weight of the released loss, 28 % sits on $t = 0$, half on $t \le 2$ and
# 73 % on $t < 10$: one batch item in a hundred. The curve of $v$
# hardly differs: it adds 1 to each weight, which matters only where the other weight is small. That is its point: where SNR is nothing, 1 is
# everything.
#
# A weight is not an influence, though. The *error* at small $t$ is small too, since $x_t$ shows the answer; and all steps share one network. So the
# weights alone do not say what is learned. Section 6 measures it.

# %% [markdown]
# ## 4. One step back, as DDPM has it and as Eq. (3) prints it
#
# Given $x_t$ and $x_0$, where was $x_{t-1}$? Two Gaussians know: $q(x_{t-1} \mid x_0)$, Eq. (2) one step earlier, and $q(x_t \mid x_{t-1})$, one step of noise.
# Their product is Gaussian again (the *posterior*), precision (1 / variance) adding up:
#
# $$\frac1{\tilde\beta_t} = \frac{1}{1-\bar\alpha_{t-1}} + \frac{\alpha_t}{\beta_t}, \qquad
# \mu = \tilde\beta_t\Big(\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\, x_0 + \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t\Big)$$
#
# Tidied up (DDPM, Eq. 7): $\mu = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\, x_0 + \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\, x_t$. The paper's Eq. (3) has
# $\sqrt{\bar\alpha_t}$ in place of $\sqrt{\alpha_t}$, and calls $\tilde\beta_t$, which is the variance, $\sigma$.

# %% [markdown]
# In Eq. (3) $x_0$ is replaced by what the predicted noise implies, $(x_t - \sqrt{1-\bar\alpha_t}\,U)/\sqrt{\bar\alpha_t}$, so $x_t$ occurs twice. Its **whole** coefficient is
# $c_x + c_0 / \sqrt{\bar\alpha_t}$, with $c_0, c_x$ the two coefficients above. For DDPM this is exactly $1/\sqrt{\alpha_t}$ (DDPM, Eq. 11): undo the fading of one step.

# %% tags=["nbval-check-output"]
for t in (250, 500, 750):
    before, alpha, beta = schedule.alpha_bar[t - 1], schedule.alpha[t], schedule.beta[t]
    variance = 1 / (1 / (1 - before) + alpha / beta)
    naive = [before.sqrt() / (1 - before) * variance, alpha.sqrt() / beta * variance, variance]
    ours = schedule.posterior(t)
    torch.testing.assert_close(torch.stack(naive), torch.tensor(ours, dtype=torch.float64))
    printed, root = schedule.posterior_as_printed(t), schedule.alpha_bar[t].sqrt().item()
    assert (printed[0], printed[2]) == (ours[0], ours[2])  # only the middle one differs
    whole = [c[1] + c[0] / root for c in (ours, printed)]
    assert abs(whole[0] - 1 / alpha.sqrt().item()) < 1e-12
    given = f"x_t given x_0: {ours[1]:.3f}, as printed {printed[1]:.3f}"
    print(f"t = {t}: {given};  whole: {whole[0]:.3f}, as printed {whole[1]:.3f}")


# %%
def spread_of_samples(coefficients):
    """Returns the variance of x_t on the way down when x_0 ~ N(0, 1) and U is ideal."""
    variance, path = 1.0, []
    for t in range(999, -1, -1):
        c_0, c_x, added = coefficients(t)
        ideal = schedule.alpha_bar[t].sqrt().item()  # E[x_0 | x_t] = ideal * x_t
        variance = (c_x + c_0 * ideal) ** 2 * variance + added
        path.append(variance)
    return path[::-1]


# %% alt="Variance of x_t on the way from pure noise to the sample. It stays at one with the DDPM posterior; with the printed coefficient it falls below one hundredth and ends far too small"
both = {"DDPM": schedule.posterior, "as printed": schedule.posterior_as_printed}
paths = {name: spread_of_samples(coefficients) for name, coefficients in both.items()}
figure, ax = plt.subplots(figsize=(6.4, 2.7))
title = "Data of variance 1, ideal U: what a sampler makes of it"
plot.lines(
    ax, range(1000), paths, r"step t (sampling runs to the left)", "variance of $x_t$", title
)
ax.set_yscale("log")
plt.show()
print("final variance (truth: 1):", {name: round(path[0], 4) for name, path in paths.items()})

# %% [markdown]
# **What to see.** Here everything is known: data are unit Gaussian, for which the best prediction is $\sqrt{\bar\alpha_t}\,x_t$, so the variance can be followed by
# arithmetic alone. With DDPM's coefficients it stays near 1. With those printed each step shrinks $x_t$, and the samples end with a fraction of the right
# variance. This is most likely a slip in typesetting: the released code uses neither formula (its sampler is DDIM, notebook 04). It matters to
# those who implement the paper from its text.

# %% [markdown]
# ## 5. How is $U$ told the time?
#
# The paper's $U$ gets an embedding of $t$. The released one gets a *noise level*: $\sqrt{\bar\alpha_t}$ in training, but $\bar\alpha_t$ at test. And the
# level, a number in $[0, 1]$, goes into a sinusoidal embedding that was made for the integers $0 \dots 999$: $\cos(t\,\omega_k)$, $\sin(t\,\omega_k)$ with
# $\omega_k = 10{,}000^{-k/600}$, $k = 0 \dots 599$ (1200 dimensions in UViT). Where $\omega_k$ is small, a change of 1 in the input changes nothing.
#
# Criterion: a dimension **varies** if its largest and smallest value over all inputs differ by more than 0.05 (of at most 2).

# %% tags=["nbval-check-output"]
from gmmt.networks.embedding import sinusoidal

levels, integers = torch.linspace(0, 1, 1001).double(), torch.arange(1000).double()
omega = 10_000 ** (-torch.arange(600).double() / 600)
for name, times in {"t = 0..999": integers, "level in [0, 1]": levels}.items():
    angle = times[:, None] * omega
    naive = torch.cat([angle.cos(), angle.sin()], 1)
    ours = sinusoidal(times, 1200, like=times, cosine_first=True)
    torch.testing.assert_close(naive, ours)
    extent = ours.amax(0) - ours.amin(0)
    counts = [f"{int((extent > bar).sum())} by over {bar}" for bar in (0.01, 0.05, 0.5)]
    print(f"{name:15s}: of 1200 dimensions vary {', '.join(counts)}")
a = schedule.alpha_bar[499]
print(f"t = 499: the level is {a.sqrt():.3f} in training, {a:.3f} at test")
a = schedule.alpha_bar[999]
print(f"t = 999: the level is {a.sqrt():.1g} in training, {a:.1g} at test")

# %% alt="Range of each embedding dimension. For integer steps most dimensions use the whole range of two; for levels in zero to one only the first 76 cosines and 195 sines move by more than 0.05"
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True)
for ax, part, name in zip(
    axes, (slice(0, 600), slice(600, 1200)), ("cosines", "sines"), strict=True
):
    extents = {}
    for label, times in {"t = 0..999": integers, "level in [0, 1]": levels}.items():
        embedding = sinusoidal(times, 1200, like=times, cosine_first=True)[:, part]
        extents[label] = embedding.amax(0) - embedding.amin(0)
    plot.lines(ax, range(600), extents, "frequency number k", "largest minus smallest", name)
    ax.axhline(0.05, color="0.4", linestyle=":")
axes[0].get_legend().remove()
plt.show()

# %% [markdown]
# **What to see** (dotted: the criterion). With integers nearly every dimension moves; with levels 271 of 1200 do: the sines with $\omega_k > 0.05$ (195) and the
# cosines with $1 - \cos\omega_k > 0.05$ (76). The number depends on the criterion (428 at 0.01, 43 at 0.5), the picture does not. It is a waste, not a fault: $\sin(\text{level})$ alone tells levels apart. The mismatch between training and
# test is a fault in general (at $t = 499$ the network is told a level that in training belonged to $t = 668$), but **not at $s = 1$**: at
# $t = 999$ both levels are zero to four digits.

# %% [markdown]
# ## 6. An experiment: who trains the last step?
#
# Weights are on paper; gradients move a network. We need features whose best answer is known. `fused` is a smooth random field on 16 x 16 cells: Gaussian, variance
# 1, neighbours alike (Matern covariance, $K(d) = (1 + r)e^{-r}$, $r = d / 1.5$ cells). Camera 1 sees the left 5 columns, camera 2 the right 5, and the 6 between are seen
# by **neither**.
#
# For Gaussian fields the least possible error has a formula. Let $S = K_{uu} - K_{uv}K_{vv}^{-1}K_{vu}$ be the covariance of the unseen cells given the visible ones, with
# eigenvalues $\lambda_i$. What $x_t$ adds is a measurement of precision SNR, so the least mean squared error per cell is
#
# $$\frac1{256}\sum_i \frac{\lambda_i}{1 + \mathrm{SNR}_t\,\lambda_i}$$

# %%
size, axis = 16, torch.arange(16).double()
cells = torch.cartesian_prod(axis, axis)
r = torch.cdist(cells, cells) / 1.5
K = (1 + r) * torch.exp(-r)
factor = torch.linalg.cholesky(K)
left, right = (axis < 5).float(), (axis >= 11).float()
u = ((left + right) == 0).repeat(size)  # the cells that neither camera sees
S = K[u][:, u] - K[u][:, ~u] @ torch.linalg.solve(K[~u][:, ~u], K[~u][:, u])
eigen = torch.linalg.eigvalsh(S).clamp(min=0)


# %%
def scenes(n, generator):
    """Returns n fields [n, 1, 16, 16] and what each camera sees of them."""
    white = torch.randn(n, 256, generator=generator, dtype=torch.float64)
    fused = (white @ factor.T).float().reshape(n, 1, size, size)
    return fused, fused * left, fused * right


def least_error(t):
    """Returns the mean squared error per cell of the best possible prediction at step t."""
    return (eigen / (1 + schedule.snr()[t] * eigen)).sum().item() / 256


def as_x_0(fusion, x_t, t, out):
    """Returns the x_0 that the network's output stands for."""
    if fusion.target == "noise":
        return schedule.predict_x_0(x_t, t, out)
    return schedule.x_0_from_v(x_t, t, out) if fusion.target == "v" else out


# %%
import copy

from gmmt.networks.unet import UNet


def train(n_steps, keep=None, clip=float("inf"), batch=32, rate=3e-3, **options):
    """Trains one small network; returns it, and a copy of how it was after `keep` steps."""
    torch.manual_seed(seed)  # the same first weights for all
    network = UNet(channels=1, n_blocks=3, inner=16, groups=4)
    fusion, early = DiffusionFusion(network, channels=1, **options), None
    draws, noises = run.generator(), torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=rate, weight_decay=0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, n_steps)
    for i in range(n_steps):
        if i == keep:
            early = copy.deepcopy(fusion)
        optimizer.zero_grad()
        fusion.loss(*scenes(batch, draws), generator=noises)[1]["dm"].backward()
        torch.nn.utils.clip_grad_norm_(fusion.parameters(), clip)
        optimizer.step()
        plan.step()
    return fusion, early


# %%
n_steps = run.pick(smoke=16, cpu=300, gpu=5000)
R, stride = run.pick(smoke=(3, 20), cpu=(7, 1))  # of the gradients below
models = {}
models["x_0"], early = train(n_steps, keep=n_steps // 8)
models["released"], _ = train(n_steps, weighting="released")
models["released, clipped"], _ = train(n_steps, clip=1.0, weighting="released")
models["v"], _ = train(n_steps, target="v")
models["noise"], _ = train(n_steps, target="noise")

# %% [markdown]
# What is computed, exactly. One network that predicts $x_0$, trained with the plain loss, at two moments: after an eighth of its training and at the end. Its
# weights are held; for each of ten bins of 100 steps, every step occurs once, with a fresh scene and fresh noise. The gradient of
# $\frac1{100}\sum_t w_t\,\lvert\hat x_0 - x_0\rvert^2$ with respect to all parameters is one vector; we draw it $R$ times for each bin, and for $t = 999$ alone.
#
# (For such a network "noise" and "released" are the same loss.) **Norm**: root mean square over the $R$ draws. **Cosine** between the mean gradients $g_i$ and $g_{999}$: every
# inner product is averaged over pairs of *different* draws, so that sampling noise does not enter (such an estimate can exceed 1). Intervals: jackknife, the draws left out
# one at a time, $\pm 2$ standard errors; no cosine where that is 1 or more (the mean gradient drowns in sampling noise).


# %%
def gradients(fusion, steps, generator):
    """Returns the gradient of each loss over the given steps, each as one long vector."""
    fused, f_1, f_2 = scenes(len(steps), generator)
    x_t = schedule.q_sample(fused, steps, torch.randn(fused.shape, generator=generator))
    x_hat = fusion.network(x_t, steps, f_1, f_2)
    error = (x_hat - fused).square().mean((1, 2, 3))
    losses = [(w[steps].float() * error).mean() for w in weights.values()]
    theta = list(fusion.parameters())
    found = [torch.autograd.grad(loss, theta, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([p.flatten() for p in parts]) for parts in found])


def cosine(a, b):
    """Returns the cosine of two mean gradients, from draws [R, P] of each."""
    off = ~torch.eye(len(a), dtype=torch.bool)
    ab, aa, bb = ((p @ q.T)[off].mean() for p, q in ((a, b), (a, a), (b, b)))
    return (ab / (aa * bb).clamp(min=1e-30).sqrt()).item()


def jackknife(a, b):
    """Returns (cosine, twice its standard error); NaN where the draws are too few to tell."""
    left_out = [[x for x in range(len(a)) if x != i] for i in range(len(a))]
    parts = torch.tensor([cosine(a[keep], b[keep]) for keep in left_out])
    error = 2 * ((len(a) - 1) * parts.var(correction=0)).sqrt().item()
    return (cosine(a, b), error) if error < 1 else (float("nan"),) * 2


# %%
import pandas as pd

bins = [torch.arange(100 * i, 100 * i + 100, stride) for i in range(10)]
bins.append(torch.full((100 // stride,), 999))
rows, totals = [], []
for moment, fusion in {"early": early, "end": models["x_0"]}.items():
    generator = torch.Generator().manual_seed(seed + 7)
    draws = [torch.stack([gradients(fusion, b, generator) for _ in range(R)], 1) for b in bins]
    for i, loss in enumerate(weights):
        g, last = [d[i] for d in draws], draws[10][0]  # of each bin [R, P]; plain, t = 999
        for b in range(11):
            cos, error = jackknife(g[b], last) if b < 10 else (float("nan"),) * 2
            norm = g[b].square().sum(1).mean().sqrt().item()
            rows.append((moment, loss, bins[b].double().mean().item(), norm, cos, error))
        totals.append((moment, loss, *jackknife(sum(g[:10]) / 10, last)))
table = pd.DataFrame(rows, columns=["moment", "loss", "t", "norm", "cosine", "error"])
totals = pd.DataFrame(totals, columns=["moment", "loss", "cosine of the whole gradient", "error"])
print(totals.round(2).to_string(index=False))

# %% alt="Left, gradient norms per bin on a logarithmic axis: flat for x_0, falling over many decades for the noise loss. Right, cosine with the gradient at step 999: positive everywhere early in training, at the end near 0.3 for the first two bins, zero or negative in the middle, near one for the last"
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3))
end = table.query("moment == 'end'")
norms = {loss: part["norm"].to_numpy() for loss, part in end.groupby("loss", sort=False)}
x = end["t"].unique()
plot.lines(axes[0], x, norms, "t (mean of the bin; last: 999)", "norm", "Gradient, end of training")
axes[0].set_yscale("log")
for moment, part in table.query("loss == 'x_0' and t < 999").groupby("moment"):
    label = {"early": "after 1/8 of training", "end": "at the end"}[moment]
    axes[1].errorbar(part["t"], part["cosine"], part["error"], marker="o", capsize=2, label=label)
title = "Cosine with the gradient at 999"
axes[1].set(xlabel="t (mean of the bin)", ylabel="cosine", title=title, ylim=(-1.1, 1.8))
axes[1].axhline(0, color="0.4", linewidth=0.8)
axes[1].legend()
plt.show()

# %% [markdown]
# **What to see.** *Left:* with the plain loss the bins pull alike within a factor of four; with the released one ("noise") the first pulls 70,000 times harder than the tenth, and
# at $t = 999$ a share of $2.4 \cdot 10^{-9}$ of the plain gradient is left. *Right:* can the other steps stand in for it? Early, largely: all bins push the shared weights the
# same way, the nearest most. At the end hardly: the last bin agrees with it, the first two a little, and
# several in the middle pull the **other way** (one bin is not drawn: too noisy).
#
# The table above is for the gradient of the whole loss. The sizes are of this run only (with 400 steps instead of 300 we saw 0.73 and 0.20 early, not 0.94 and 0.78); in both the
# plain loss is better aligned early, and at the end none is aligned much.

# %% [markdown]
# What becomes of it? Networks with the same first weights, scenes and number of steps, each with its own loss: the error of $\hat x_0$ at each $t$, beside
# the least possible. (*Clipped*: gradients longer than 1 are shortened to 1.)

# %% alt="Mean squared error of the predicted x_0 over t for five trained networks and the least possible error, on a logarithmic axis. v stays close to the least everywhere, x_0 from about 400 on; noise leaves the axis near 999; released lies far above the others, clipped or not, at large t until noise passes it"
from gmmt.results import mean_interval

at = [0, 10, 50, *range(100, 1000, 100), 950, 999]
n_test = run.pick(smoke=50, cpu=400)
test = scenes(n_test, torch.Generator().manual_seed(10_000))
z = torch.randn(test[0].shape, generator=torch.Generator().manual_seed(10_001))
errors = {}
with torch.no_grad():
    for name, fusion in models.items():
        for t in at:
            steps, x_t = torch.full((n_test,), t), schedule.q_sample(test[0], t, z)
            x_hat = as_x_0(fusion, x_t, t, fusion.network(x_t, steps, *test[1:]))
            errors[name, t] = (x_hat - test[0]).square().mean((1, 2, 3)).double().numpy()
curves = {name: [errors[name, t].mean() for t in at] for name in models}
curves = {"x_0": None, "noise": None, "v": None, **curves}  # order and colours as above
figure, ax = plt.subplots(figsize=(6.6, 3.2))
ylabel = "mean squared error of $\\hat x_0$"
plot.lines(
    ax, at, curves, "step t", ylabel, "One budget, four losses (one of them twice)", marker="."
)
ax.plot(at, [least_error(t) for t in at], "--", color="black", label="least possible")
ax.set(yscale="log", ylim=(1e-5, 100))
ax.legend()
plt.show()

# %%
rows = [(k, t, *vars(mean_interval(e)).values()) for (k, t), e in errors.items()]
result = pd.DataFrame(rows, columns=["loss", "t", "value", "low", "high", "n"])
result["least possible"] = [least_error(t) for t in result["t"]]
print(result.query("t in (0, 999)").to_string(index=False, float_format="{:.4g}".format))
source = "ours in miniature: a Gaussian field, two half-blind cameras"
saved = run.save(result, "error_by_t.csv", source=source)
saved = run.save(table, "gradients.csv", source=source)
at_999 = result.query("t == 999").set_index("loss")["value"]
line = ", ".join(f"{k} {v:.3g}" for k, v in at_999.items())
run.headline(f"MSE of x_0 at t = 999 (least possible {least_error(999):.3g}): {line}")

# %% [markdown]
# **What to see** (400 scenes; in the table 95 % intervals over scenes, one training run each). At $t = 999$ plain $x_0$ and $v$ stay within 40 % of the least possible
# error. **The released loss misses it tenfold**: its 1.7 is worse than answering zero, which costs 1. Noise prediction is near the best at small $t$ and useless at 999: its
# small errors are multiplied by 20,000 (400 million in the square).
#
# Two surprises. *The released loss is poor at small $t$ too*, where its weight lies: one item in a hundred outweighs all others, and training follows such jolts. Clipping
# mends that (0.006 at $t = 0$), but not the last step (0.9). *And $v$ has the same huge weights at small $t$ without
# harm*: they count errors of $\hat x_0$, but its network puts out $\hat v$, which enters $\hat x_0$ with a factor $\sqrt{1-\bar\alpha_t}$. On **what the network puts out**, plain
# losses weigh 1 at every $t$. Only the released loss does not.

# %% [markdown]
# ## Side by side
#
# | | paper | released code | here |
# |---|---|---|---|
# | $U$ predicts | noise (text, Eq. 6) | $x_0$ | $x_0$, noise or $v$ |
# | squared error of | noise | the noise derived from $\hat x_0$ | the thing predicted, or as released |
# | weight of $\lvert\hat x_0 - x_0\rvert^2$ at $t = 0$; $999$ | $2.4 \cdot 10^4$; $2.4 \cdot 10^{-9}$ | the same | 1; 1 for $x_0$ |
# | coefficient of $x_t$ in the posterior | $\sqrt{\bar\alpha_t}$ (Eq. 3) | not used (DDIM) | $\sqrt{\alpha_t}$ |
# | $U$ is told | $t$ | $\sqrt{\bar\alpha_t}$ in training, $\bar\alpha_t$ at test | $t$ |
# | steps at test | 1 | 1 | none: errors at each $t$ |
#
# In `gmmt`: `DiffusionFusion(target=..., weighting=..., time=...)`; `gmmt.fusion.PRESETS` holds the three columns.

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# A network predicts the noise. With what weight must $\lvert\hat z - z\rvert^2$ be multiplied at each $t$, so that the loss becomes the plain $x_0$ loss? Give it
# as a tensor of 1000 numbers, and look at its largest value before you train with it.

# %%
answer = None  # a tensor [1000]

# %% tags=["solution"]
answer = (1 - schedule.alpha_bar) / schedule.alpha_bar

# %%
assert answer is not None, "no answer yet"
product = answer * schedule.weight_on_x_0("noise")
assert torch.allclose(product, torch.ones(1000).double()), "weight times SNR must be 1"
assert answer.max() > 4e8, "the last step counts 400 million times: hence nobody does it this way"

# %% [markdown]
# ## What follows, and what this does not show
#
# - There is no tracker and no tracking loss here. In GMMT a head's loss also trains $U$ (Eq. 5), and it may be what teaches the last step; whether it does is **open**.
# - One small network, one optimiser (AdamW; the paper has SGD), one training run of each loss. Intervals cover scenes, not the luck of training.
# - The released loss might do better with another optimiser or many more steps. What is shown is the weight, exactly, and one example of its effect.
#
# **Next:** 03, the networks; [04, how many steps does a sample need](04_sampling.ipynb).
#
# **References.** Ho, Jain, Abbeel 2020 (DDPM). Salimans, Ho 2022 ($v$). Song, Meng, Ermon 2021 (DDIM). Hang et al. 2023 (clipped SNR weights). Tang et al. 2024 (GMMT).
