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
# gives the only step that is used at test, $t = 999$, a weight of $2.4 \cdot 10^{-9}$, where the plain $x_0$ loss gives it 1.
#
# Paper: "Generative-Based Fusion Mechanism", Eqs. (2), (3) and (6). Runs about 20 s (smoke), 3 to 4 min (cpu). Read before this:
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
# | $s$ | `steps` | number | steps of the sampler; the paper uses 1 |
#
# *Plain* means: the squared error of the thing predicted, with nothing in front of it.

# %% alt="Weights over the step t on a logarithmic axis. For x_0 it is one everywhere, for the noise it falls from 24,000 to two billionths, for v it falls from 24,000 to one; noise (dashed) and v (broad, pale) coincide at small t"
schedule = Schedule.cosine(1000)
weights = {target: schedule.weight_on_x_0(target) for target in ("x_0", "noise", "v")}


def tell_apart(ax):
    """Draws noise dashed, over a broad pale band for v: the two coincide in places."""
    ax.lines[1].set(linestyle="--", zorder=3)
    ax.lines[2].set(linewidth=5, alpha=0.35, zorder=1)
    ax.legend()


figure, ax = plt.subplots(figsize=(6.4, 2.9))
title = "One error, three weights"
plot.lines(ax, range(1000), weights, "step t", r"weight of $|\hat x_0 - x_0|^2$", title)
tell_apart(ax)
ax.set_yscale("log")
ax.axvline(999, color="0.4", linestyle=":")
ax.text(990, 3e-7, "the only step\nused at s = 1", ha="right", fontsize=8)
plt.show()

# %% [markdown]
# **What to see.** Predicting $x_0$ treats all steps alike. Predicting the noise counts errors at small $t$, where the answer is nearly visible in
# $x_t$, up to 24,000 times, and errors at $t = 999$, where nothing is visible, two billionths of a time. $v$ has the first habit (up to about $t = 200$
# the two curves nearly coincide) but not the second: its weight never falls below 1. Sections 1 to 3 derive the three curves; section 6 measures what they do to a network.

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
    divided = f"x_0 from noise divides by {a.sqrt():.4g}, noise from x_0 by {(1 - a).sqrt():.4g}"
    print(f"t = {t:3d}: x_0, noise and v give one another; {divided}")

# %% [markdown]
# At $t = 999$, $v$ is $-x_0$ but for $5 \cdot 10^{-5}$ of the noise, and at $t = 0$ it is nearly the noise. So a network that predicts $v$ moves from the one task to the other
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
# The paper's Eq. (6) lists the losses of its variants. The line of the diffusion model (DM) reads
#
# $$Loss_{DM} = \mathcal L_2(noise,\ output),$$
#
# so $U$ predicts the noise. In the released code $U$ predicts $x_0$; the noise is worked out from it, and the loss is the squared error of *that*. By
# section 2 this is
#
# $$Loss_{released} = \frac{\bar\alpha_t}{1-\bar\alpha_t}\;\lvert\hat x_0 - x_0\rvert^2$$
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
snr, given, t_T = schedule.snr(), [x_0] * 3, torch.tensor([999])  # float64
for t in (0, 500, 999):
    naive = snr[t] * x_0.square().mean()
    ours = fusion.loss(*given, t=torch.tensor([t]), noise=noise)[1]["dm"]
    torch.testing.assert_close(ours, naive, rtol=1e-9, atol=0)
in_float32 = fusion.loss(*[x.float() for x in given], t=t_T, noise=noise.float())[1]["dm"].item()
print(f"t = 999 in float32, as in training: off by {abs(in_float32 / naive - 1):.0e} of the value")
below, shares = int((snr < 1).nonzero()[0]), snr / snr.sum()
print(f"weight {snr[0]:.3g} at t = 0, {snr[999]:.2g} at t = 999; below 1 from t = {below}")
linear = Schedule.linear(1000).snr()
print(f"(with the linear schedule {linear[0]:.3g} at t = 0, {linear[999]:.2g} at t = 999)")
for n, name in ((1, "t = 0"), (3, "t <= 2"), (10, "t < 10")):
    print(f"share of the total weight at {name}: {shares[:n].sum():.1%}")
print(f"t >= 500 together: {shares[500:].sum():.2%}; t = 999: {shares[999]:.1g} of all")


# %% alt="Share of the total weight that lies below each step, on a logarithmic step axis. The noise and v curves start at 28 percent, pass half at the third step and are nearly complete at 100; the x_0 curve climbs only at the right end. Dotted lines mark three and ten steps"
figure, ax = plt.subplots(figsize=(6.4, 2.8))
share = {target: torch.cumsum(weight, 0) / weight.sum() for target, weight in weights.items()}
title = "Half of the noise loss's weight lies on three of 1000 steps"
plot.lines(ax, range(1, 1001), share, "steps counted from t = 0", "share of the weight", title)
tell_apart(ax)
ax.set_xscale("log")
for n, name in ((3, r"$t \leq 2$"), (10, "$t < 10$")):
    ax.axvline(n, color="0.4", linestyle=":")
    ax.text(n * 1.05, 0.1, name, fontsize=8)
plt.show()

# %% [markdown]
# **What to see.** Of the weight of the released loss, 28 % sits on $t = 0$, half on $t \le 2$ and 73.5 % on $t < 10$: one batch item in a hundred. The curve
# of $v$ hardly differs: it adds 1 to each weight, which matters only where the other weight is small. That is its point: where SNR is nothing, 1 is
# everything. In float32 the loss at $t = 999$ rests on a small difference of numbers near 1; here rounding changes it by $7 \cdot 10^{-5}$ of its value.
#
# A weight is not an influence, though. The *error* at small $t$ is small too, since $x_t$ shows the answer; and all steps share one network. So the
# weights alone do not say what is learned. Section 6 measures it.

# %% [markdown]
# ## 4. One step back, as DDPM has it and as Eq. (3) prints it
#
# Given $x_t$ and $x_0$, where was $x_{t-1}$? Two Gaussians know: $q(x_{t-1} \mid x_0)$, Eq. (2) one step earlier, and $q(x_t \mid x_{t-1})$, one step of noise.
# Their product is Gaussian again (the *posterior*); inverse variances add up:
#
# $$\frac1{\tilde\beta_t} = \frac{1}{1-\bar\alpha_{t-1}} + \frac{\alpha_t}{\beta_t}, \qquad
# \mu = \tilde\beta_t\Big(\frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\, x_0 + \frac{\sqrt{\alpha_t}}{\beta_t}\, x_t\Big)$$
#
# Tidied up (DDPM, Eq. 7): $\mu = c_0\, x_0 + c_x\, x_t$ with $c_0 = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}$ and $c_x = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}$. The paper's Eq. (3) is
#
# $$\sigma_{t-1} = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t, \qquad
# \mu_{t-1} = \frac{\sqrt{\bar\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\, x_t + \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\, \frac{1}{\sqrt{\bar\alpha_t}} \big(x_t - \sqrt{1-\bar\alpha_t}\; U\big)$$
#
# It has $\sqrt{\bar\alpha_t}$ in place of $\sqrt{\alpha_t}$ in $c_x$, and its $\sigma$ is $\tilde\beta_t$, the variance.

# %% [markdown]
# The last bracket of Eq. (3), over $\sqrt{\bar\alpha_t}$, is $\hat x_0$ worked out from the predicted noise, so $x_t$ occurs twice. Its **whole** coefficient,
# beside a given answer of $U$, is $c_x + c_0 / \sqrt{\bar\alpha_t}$. For DDPM this is exactly $1/\sqrt{\alpha_t}$ (DDPM, Eq. 11): undo the fading of one step.

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


# %% alt="Variance of x after each step on the way from pure noise to the sample. It stays at one with the DDPM posterior; with the printed coefficient it falls below one hundredth half-way, rises again and ends at 0.025"
both = {"DDPM": schedule.posterior, "as printed": schedule.posterior_as_printed}
paths = {name: spread_of_samples(coefficients) for name, coefficients in both.items()}
figure, ax = plt.subplots(figsize=(6.4, 2.7))
title = "Data of variance 1, ideal U: what a sampler makes of it"
labels = "step t (sampling runs to the left)", "variance after step t"
plot.lines(ax, range(1000), paths, *labels, title)
ax.set_yscale("log")
plt.show()
print("final variance (truth: 1):", {name: round(path[0], 4) for name, path in paths.items()})
low = min(paths["as printed"])
print(f"as printed, lowest: {low:.4f}, after t = {paths['as printed'].index(low)}")

# %% [markdown]
# **What to see.** Here everything is known: data are unit Gaussian, for which the ideal answer is $E[x_0 \mid x_t] = \sqrt{\bar\alpha_t}\,x_t$. So $U$'s answer is a
# multiple of $x_t$ too, and a step multiplies $x_t$ by $c_x + c_0\sqrt{\bar\alpha_t}$. This is below 1, unlike the whole coefficient, where $U$'s noise is still to be taken
# off; and the variance $\tilde\beta_t$ that each step adds makes up for it. With DDPM's coefficients the variance stays near 1. With the
# printed ones it falls to 0.006 half-way, and the samples end with 0.025.
#
# (Both curves add $\tilde\beta_t$ as a variance. Taking the printed $\sigma$ for a standard deviation is not simulated.) The coefficient is most likely a slip in
# typesetting: the released code uses neither formula (its sampler is DDIM, notebook 04). It matters to those who implement the paper from its text.

# %% [markdown]
# ## 5. How is $U$ told the time?
#
# The paper's $U$ gets an embedding of $t$. The released one gets a *level*: $\sqrt{\bar\alpha_t}$ in training, but $\bar\alpha_t$ at test. (It is often called the
# noise level, though it is 1 for a clean map and 0 for pure noise.) This number in $[0, 1]$ goes into a sinusoidal embedding that was
# made for the integers $0 \dots 999$: $\cos(t\,\omega_k)$, $\sin(t\,\omega_k)$ with $\omega_k = 10{,}000^{-k/600}$, $k = 0 \dots 599$ (1200 dimensions, as in UViT, a
# transformer that can play $U$; notebook 03). Where $\omega_k$ is small, a change of 1 in the input changes nothing.
#
# Criterion: a dimension **varies** if its largest and smallest value over all inputs differ by more than 0.05 (of at most 2).

# %% tags=["nbval-check-output"]
from gmmt.networks.embedding import sinusoidal

levels, integers = torch.linspace(0, 1, 1001).double(), torch.arange(1000).double()
omega = 10_000 ** (-torch.arange(600).double() / 600)
for name, times in {"t = 0..999": integers, "level in [0, 1]": levels}.items():
    angle = times[:, None] * omega
    naive = torch.cat([angle.cos(), angle.sin()], 1)
    ours = sinusoidal(times, 1200, times.dtype, cosine_first=True)
    torch.testing.assert_close(naive, ours)
    extent = ours.amax(0) - ours.amin(0)
    counts = [f"{int((extent > bar).sum())} by over {bar}" for bar in (0.01, 0.05, 0.5)]
    print(f"{name:15s}: of 1200 dimensions vary {', '.join(counts)}")
cosines, sines = (extent > 0.05).reshape(2, 600).sum(1).tolist()
print(f"the level's {cosines + sines} by over 0.05 are {cosines} cosines and {sines} sines")
a = schedule.alpha_bar[499]
print(f"t = 499: the level is {a.sqrt():.3f} in training, {a:.3f} at test", end="; ")
print(f"in training {a:.3f} stands for t = {(schedule.alpha_bar.sqrt() - a).abs().argmin()}")
a = schedule.alpha_bar[999]
print(f"t = 999: the level is {a.sqrt():.1g} in training, {a:.1g} at test")

# %% alt="Range of each embedding dimension. For integer steps most dimensions use the whole range of two; for levels in zero to one only the first 75 cosines and 196 sines move by more than 0.05"
figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True)
for ax, part, name in zip(
    axes, (slice(0, 600), slice(600, 1200)), ("cosines", "sines"), strict=True
):
    extents = {}
    for label, times in {"t = 0..999": integers, "level in [0, 1]": levels}.items():
        embedding = sinusoidal(times, 1200, times.dtype, cosine_first=True)[:, part]
        extents[label] = embedding.amax(0) - embedding.amin(0)
    plot.lines(ax, range(600), extents, "frequency number k", "largest minus smallest", name)
    ax.axhline(0.05, color="0.4", linestyle=":")
plt.show()

# %% [markdown]
# **What to see** (dotted: the criterion). With integers nearly every dimension moves; with levels 271 of 1200 do, those of the fastest 75 cosines and 196
# sines. The number depends on the criterion (428 at 0.01, 43 at 0.5), the picture does not. It is a waste, not a fault: $\sin(\text{level})$ alone tells
# levels apart. The mismatch between training and test is a fault in general (at $t = 499$ the network is told a level that in training belonged to
# $t = 668$), but **not at $s = 1$**: at $t = 999$ both levels are below 0.0001.

# %% [markdown]
# ## 6. An experiment: is the last step learned?
#
# Weights are on paper; gradients move a network. We need features whose best answer is known. `fused` is a random field on 16 x 16 cells: Gaussian,
# variance 1, and smooth, since cells $d$ apart have the covariance $K = (1 + r)\,e^{-r}$, $r = d / 1.5$ (of the Matérn family, a usual choice).
# Camera 1 sees the left 5 columns, camera 2 the right 5, and the 6 between are hidden from **both**.
#
# For Gaussian fields the least possible error has a formula. Write h for the hidden cells and o for the others, and let $\lambda_i$ be the eigenvalues of
# $K_{hh} - K_{ho}K_{oo}^{-1}K_{oh}$, the covariance of the hidden cells given the others. $x_t / \sqrt{\bar\alpha_t}$ shows them with noise of variance
# $1/\mathrm{SNR}_t$, and inverse variances add up: $1/\lambda_i + \mathrm{SNR}_t$. The other cells are known and add no error. So the least mean squared error over all 256 cells is
#
# $$\frac1{256}\sum_i \frac{\lambda_i}{1 + \mathrm{SNR}_t\,\lambda_i}$$

# %%
size, axis = 16, torch.arange(16).double()
cells = torch.cartesian_prod(axis, axis)
r = torch.cdist(cells, cells) / 1.5
K = (1 + r) * torch.exp(-r)
factor = torch.linalg.cholesky(K)
left, right = (axis < 5).float(), (axis >= 11).float()
h = ((left + right) == 0).repeat(size)  # the hidden cells; ~h: the others
given_others = K[h][:, h] - K[h][:, ~h] @ torch.linalg.solve(K[~h][:, ~h], K[~h][:, h])
eigen = torch.linalg.eigvalsh(given_others).clamp(min=0)


# %%
def scenes(n, generator):
    """Returns n fields [n, 1, 16, 16] and what each camera sees of them."""
    white = torch.randn(n, 256, generator=generator, dtype=torch.float64)
    fused = (white @ factor.T).float().reshape(n, 1, size, size)
    return fused, fused * left, fused * right


def least_error(t):
    """Returns the mean squared error per cell of the best possible prediction at step t."""
    return (eigen / (1 + snr[t] * eigen)).sum().item() / 256


def as_x_0(fusion, x_t, t, out):
    """Returns the x_0 that the network's output stands for."""
    if fusion.target == "noise":
        return schedule.predict_x_0(x_t, t, out)
    return schedule.x_0_from_v(x_t, t, out) if fusion.target == "v" else out


# %%
import copy

from gmmt.networks.unet import UNet


def train(n_steps, keep=(), clip=float("inf"), batch=32, rate=3e-3, **options):
    """Trains one small network; returns it, and copies of how it was after `keep` steps."""
    torch.manual_seed(seed)  # the same first weights for all
    network = UNet(channels=1, n_blocks=3, inner=16, groups=4)
    fusion, kept = DiffusionFusion(network, channels=1, **options), []
    draws, noises = run.generator(), torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=rate, weight_decay=0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, n_steps)
    for i in range(n_steps):
        if i in keep:
            kept.append(copy.deepcopy(fusion))
        optimizer.zero_grad()
        fusion.loss(*scenes(batch, draws), generator=noises)[1]["dm"].backward()
        torch.nn.utils.clip_grad_norm_(fusion.parameters(), clip)
        optimizer.step()
        plan.step()
    return fusion, kept


# %%
n_steps = run.pick(smoke=16, cpu=300, gpu=5000)
R, stride = run.pick(smoke=(3, 20), cpu=(7, 1))  # of the gradients below
models = {}
models["x_0"], kept = train(n_steps, keep=(n_steps // 8, n_steps // 4))
models["released"], _ = train(n_steps, weighting="released")
models["released, clipped"], _ = train(n_steps, clip=1.0, weighting="released")
models["v"], _ = train(n_steps, target="v")
models["noise"], _ = train(n_steps, target="noise")

# %% [markdown]
# What is computed, exactly. One network that predicts $x_0$, trained with the plain loss, is held at three moments: after 1/8 and 1/4 of its training, and
# at the end. In each of ten bins of 100 steps every step occurs once, with a fresh scene and noise; an eleventh holds $t = 999$ a hundred times. The
# gradient of $\frac1{100}\sum_t w_t\,\lvert\hat x_0 - x_0\rvert^2$ with respect to all parameters is one vector, drawn $R$ times. $w_t$ is 1 (`x_0`), SNR (`noise`; for this network
# also the released loss) or SNR + 1 (`v`, though this network puts out $\hat x_0$).
#
# **Norm**: root mean square over the draws, sampling noise included. **Cosine** between mean gradients, a bin's and that at 999: inner products are averaged
# over pairs of *different* draws, so that sampling noise drops out (the estimate can exceed 1). Intervals: $\pm 2$ standard errors, from repeating the estimate with each
# draw left out (the *jackknife*); no cosine where that is 1 or more.


# %%
def gradients(fusion, steps, generator):
    """Returns the gradient of each loss over the given steps, each as one long vector."""
    fused, f_1, f_2 = scenes(len(steps), generator)
    x_t = schedule.q_sample(fused, steps, torch.randn(fused.shape, generator=generator))
    x_hat = fusion.network(x_t, steps, f_1, f_2)
    error = (x_hat - fused).square().mean((1, 2, 3))
    losses = [(weight[steps].float() * error).mean() for weight in weights.values()]
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
for moment, fusion in zip(("1/8", "1/4", "end"), (*kept, models["x_0"]), strict=True):
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
print(totals.round(2).to_string(index=False), "\n")
end, plain = table.query("moment == 'end'"), table.query("loss == 'x_0' and t < 999")
shown = end.pivot_table(index="t", columns="loss", values="norm")[list(weights)]
print("norm at the end", shown.to_string(float_format="{:.2g}".format), sep="\n")

# %% alt="Left, gradient norms per bin on a logarithmic axis: flat for weight 1, falling over many decades with the weight of the noise loss. Right, cosine with the gradient at step 999 for the plain loss: early near one everywhere; after a quarter of training rising from -0.5 to 1; at the end near 0.3 for the first two bins, zero or negative in the middle, near one for the last"
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.1))
norms = {loss: part["norm"].to_numpy() for loss, part in end.groupby("loss", sort=False)}
labels = "t (mean of the bin; last: 999)", "gradient norm (rms)"
plot.lines(axes[0], end["t"].unique(), norms, *labels, "Three weights, end of training")
tell_apart(axes[0])
axes[0].get_legend().set_title("weight as in the loss of", {"size": 8})
axes[0].set_yscale("log")
names = {"1/8": "after 1/8 of training", "1/4": "after 1/4", "end": "at the end"}
for i, (moment, part) in enumerate(plain.groupby("moment", sort=False)):
    style = {"color": ("0.7", "0.45", "0")[i], "marker": "o^s"[i], "capsize": 2}
    x = part["t"] + 12 * (i - 1)
    axes[1].errorbar(x, part["cosine"], part["error"], label=names[moment], **style)
    unknown = x[part["cosine"].isna()]
    axes[1].plot(unknown, 0 * unknown - 1.0, "x", color=style["color"])
title = "Plain $x_0$ loss: cosine with t = 999"
axes[1].set(xlabel="t (mean of the bin)", ylabel="cosine", title=title, ylim=(-1.15, 2.2))
axes[1].axhline(0, color="0.4", linewidth=0.8)
axes[1].legend(loc="upper left")
plt.show()

# %% [markdown]
# **What to see.** *Left:* with weight 1 the ten bins stay within a factor of four; with the released loss (`noise`) the first is 70,000 times the
# tenth, and at $t = 999$ a share of $2.4 \cdot 10^{-9}$ is left. *Right* (markers shifted sideways): after 1/8 of training all bins point roughly
# as 999 does. It does not last. After 1/4 the first three point the **other way**, at the end several in the middle do (cross: too noisy for a value).
#
# The first table, for the whole loss: weight 1 is better aligned at 1/8 and 1/4; at the end no difference is seen.
#
# This is one run, at weights that the *plain* loss trained: what pulls in training by another loss is not measured, and AdamW rescales gradients.
# Nor does the cosine foretell the outcome: row `v` is like row `noise`, yet the network that puts out $\hat v$ comes near the least error at 999, see below.

# %% [markdown]
# What becomes of it? Networks with the same first weights, scenes and number of steps, each with its own loss: the error of $\hat x_0$ at each $t$, beside
# the least possible. `noise` and `v` now are networks that put out $\hat z$ and $\hat v$; the others put out $\hat x_0$. (*Clipped*: gradients longer than 1 are shortened
# to 1.) For comparison: copying the visible columns and answering zero between them costs 0.375, the hidden share of the cells.
# (In the table: 95 % intervals over the test scenes, 400 here. One training run each.)

# %% alt="Mean squared error of the predicted x_0 over t for five trained networks and the least possible error, on a logarithmic axis. v stays within a factor of three of the least, x_0 is close to it from about 400 on; noise leaves the axis near 999; released lies far above x_0 and v at large t, clipped or not, and above the line for copied visible columns at 999"
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
figure, ax = plt.subplots(figsize=(7, 3.4))
labels = "step t", "mean squared error of $\\hat x_0$"
plot.lines(ax, at, curves, *labels, "One budget, four losses (one of them twice)", marker=".")
ax.plot(at, [least_error(t) for t in at], ":", color="black", label="least possible")
ax.axhline(0.375, color="0.6", linewidth=0.8, label="visible columns copied")
tell_apart(ax)
ax.text(935, 14, f"noise at 999:\n{curves['noise'][-1]:.2g}", ha="right", fontsize=8)
ax.set(yscale="log", ylim=(1e-5, 100))
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
rows = [(k, t, *vars(mean_interval(e)).values()) for (k, t), e in errors.items()]
result = pd.DataFrame(rows, columns=["loss", "t", "value", "low", "high", "n"])
result["least possible"] = [least_error(t) for t in result["t"]]
result["times least"] = result["value"] / result["least possible"]
copied = (test[0] - test[1] - test[2]).square().mean()
print(f"visible columns copied: {copied:.3f}; zero everywhere: {test[0].square().mean():.3f}")
print(result.query("t in (0, 999)").to_string(index=False, float_format="{:.4g}".format))
shown = result[result["t"].isin([0, 10, 100, 200, 500, 900, 999])]
shown = shown.pivot_table(index="loss", columns="t", values="times least").loc[list(models)]
print("\ntimes the least possible", shown.to_string(float_format="{:.3g}".format), sep="\n")
source = "ours in miniature: a Gaussian field, two half-blind cameras"
saved = run.save(result, "error_by_t.csv", source=source)
saved = run.save(table, "gradients.csv", source=source)
at_999 = result.query("t == 999").set_index("loss")["value"]
line = ", ".join(f"{k} {v:.3g}" for k, v in at_999.items())
run.headline(f"MSE of x_0 at t = 999 (least possible {least_error(999):.3g}): {line}")

# %% [markdown]
# **What to see.** At $t = 999$ plain $x_0$ has 1.3 times the least possible error, $v$ 1.4. **The released loss has ten times**: 1.7 is worse than answering zero (1) and than copying (0.38); clipped, it is 0.9. The noise network, at
# 2.7 times the least for $t = 0$ as $v$ is, fails at 999: its errors are multiplied by 20,000 (400 million in the square).
#
# *The released loss is poor at $t = 0$ too*, where its weight lies: over 7,000 times the least. A likely reason: one item in a hundred outweighs the
# others, and gradients come in jolts. In this run clipping lowers the error to some 400 times; but from $t = 200$ on clipped is worse than plain $x_0$.
# *Plain $x_0$ is poor at $t = 0$*: 2,000 times. *And $v$ has huge weights there without harm*: they count errors of $\hat x_0$, which $\hat v$ enters
# with a factor $\sqrt{1-\bar\alpha_t}$.
# On **what the network puts out** plain losses weigh 1 at every $t$. Only the released loss does not.

# %% [markdown]
# ## Side by side
#
# | | paper | released code | here |
# |---|---|---|---|
# | $U$ predicts | noise (text, Eq. 6) | $x_0$ | $x_0$, noise or $v$ |
# | squared error of | noise | the noise derived from $\hat x_0$ | the thing predicted, or as released |
# | weight of $\lvert\hat x_0 - x_0\rvert^2$ at $t = 0$; $999$ | $2.4 \cdot 10^4$; $2.4 \cdot 10^{-9}$, if the schedule is cosine | the same (cosine) | plain $x_0$: 1; 1 |
# | factor in the coefficient of $x_t$ (section 4) | $\sqrt{\bar\alpha_t}$ (Eq. 3) | not used (DDIM) | $\sqrt{\alpha_t}$ |
# | $U$ is told | $t$ | $\sqrt{\bar\alpha_t}$ in training, $\bar\alpha_t$ at test | $t$ |
# | steps at test | 1 | 1 | none: errors at each $t$ |
#
# The paper's text does not name its schedule; with the linear one its weights would be $10^4$ and $4 \cdot 10^{-5}$ (printed in section 3).
#
# In `gmmt`: `DiffusionFusion(target=..., weighting=..., time=...)`.

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
# **Next:** [03, the networks](03_networks.ipynb).
#
# **References.** Ho, Jain, Abbeel 2020 (DDPM). Salimans, Ho 2022 ($v$). Song, Meng, Ermon 2021 (DDIM). Tang et al. 2024 (GMMT).
