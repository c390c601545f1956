# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does the noise schedule destroy, and what does it take to bring it back?
#
# **In one sentence:** noise drowns fine detail first and the coarse layout last; a network that is given both cameras' features can restore
# what at least one of them shows, and where neither shows anything, one step of diffusion answers with a blur, as plain regression does.
#
# Paper: "Generative-Based Fusion Mechanism", Eqs. (2) and (6). Runs about 10 s (smoke), 1 min (cpu). Read before this:
# [00](00_map.ipynb), which says what GMMT is and claims.

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
T: int = 1000
steps: int = 10

# %%
import matplotlib.pyplot as plt
import torch

from gmmt import notebook, plot
from gmmt.schedule import Schedule

run = notebook.start("01_noise_schedule", profile=profile, seed=seed)

# %% [markdown]
# ## The idea
#
# A diffusion model learns to undo a destruction that we control. Here the thing destroyed is not an image but a tracker's **feature
# map**: `fused`, what the tracker knows after combining two cameras, and from which its last part, the *head*, reads the target's box. The
# signal is faded out and Gaussian noise is faded in, over $T$ steps. A network $U$ then learns the way back, *with both cameras' features
# to help it*.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $fused = x_0$ | `x_0`, `fused` | (B, C, H, W) | the tracker's fused features |
# | $f_{rgb}, f_{tir}$ | `f_rgb`, `f_tir` | (B, C, H, W) | features of each modality, the conditions |
# | $\bar z_t$ | `noise` | (B, C, H, W) | unit Gaussian noise |
# | $x_t$ | `x_t` | (B, C, H, W) | the mixture at step $t$ |
# | $\hat x_0, \hat z$ | `x_hat`, `z_hat` | (B, C, H, W) | what the network $U$ makes of $x_t$ |
# | $\beta_t,\ \alpha_t = 1 - \beta_t$ | `beta`, `alpha` | (T,) | noise added, signal kept in one step |
# | $\bar\alpha_t = \prod_{i \le t} \alpha_i$ | `alpha_bar` | (T,) | share of the signal's variance left |
# | $fused^*$ | `fused_star` | (B, C, H, W) | what the model makes of it at test time |
#
# The paper counts $t = 1 \dots T$; the code counts $0 \dots T-1$, and $-1$ means clean.

# %% alt="An RGB image blinded by lights, its thermal partner in which people glow, and a 32 by 32 edge-energy map of each"
from gmmt.data.pairs import example_pair, feature_map

rgb, tir, credit = example_pair()
f_rgb, f_tir = feature_map(rgb), feature_map(tir)
energy = [f[0].mean(0).numpy() for f in (f_rgb, f_tir)]
titles = ["RGB", "thermal (TIR)", "$f_{rgb}$", "$f_{tir}$"]
plot.image_row([rgb, tir, *energy], titles, "What lamps hide from one camera, the other shows")
plt.show()
print(credit)

# %% [markdown]
# **What to see.** Lamps and their glare dominate the RGB image, and its features are edges of glare; the thermal camera does not see them,
# and shows people and street in detail. The two maps on the right are features: edge strength in eight directions, pooled into 32 x 32
# cells (shown: the mean over directions). A trained network's features are richer, but like these they are coarse grids of numbers with mean 0
# and variance 1, and that is all that diffusion needs.

# %% [markdown]
# ## 1. Fading out: $\bar\alpha_t$
#
# One step keeps a little less signal and adds a little noise, so that unit variance stays unit variance:
#
# $$x_t = \sqrt{1-\beta_t}\; x_{t-1} + \sqrt{\beta_t}\; z$$
#
# Taking all the steps at once gives the paper's **Eq. (2)**, with $\bar\alpha_t$ the product of what each step keeps:
#
# $$x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1-\bar\alpha_t}\; \bar z_t$$
#
# Why? The signal shrinks by $\sqrt{\alpha_i}$ each time. Independent noises add up in variance: after a step it is $(1-\beta)\,v + \beta$, so a total
# variance of 1 stays 1. The next cell follows both, step by step, without using Eq. (2). Two schedules are in use: linear, $\beta_t$ from
# $10^{-4}$ to $0.02$ (DDPM, Ho et al., 2020), and cosine, $\bar\alpha_t \propto \cos^2\!\big(\tfrac{\pi}{2}\,\tfrac{t/T + 0.008}{1.008}\big)$, in GMMT's released code.

# %%
import math


def step_by_step(beta):
    """Returns (signal factor, noise variance) after each step, by doing the steps."""
    signal, variance, after = 1.0, 0.0, []
    for b in beta:
        signal = math.sqrt(1 - b) * signal
        variance = (1 - b) * variance + b
        after.append((signal, variance))
    return torch.tensor(after, dtype=torch.float64).T


# %% tags=["nbval-check-output"]
cosine, linear = Schedule.cosine(1000), Schedule.linear(1000)
for schedule in (cosine, linear):
    signal, variance = step_by_step(schedule.beta.tolist())
    torch.testing.assert_close(signal, schedule.alpha_bar.sqrt())
    torch.testing.assert_close(variance, 1 - schedule.alpha_bar)
for t in (0, 250, 500, 750, 999):
    left = [f"{s.alpha_bar[t]:.2e}" for s in (cosine, linear)]
    print(f"t = {t:3d}   alpha_bar: cosine {left[0]}   linear {left[1]}")

# %% alt="Left, alpha bar against t: the linear schedule falls faster. Right, signal-to-noise ratio on a log scale from ten thousand to below one millionth"
cosine, linear = Schedule.cosine(T), Schedule.linear(T)
plot.schedules({"cosine (released code)": cosine, "linear (DDPM)": linear})
plt.show()

# %% [markdown]
# **What to see.** The linear schedule spends its last third on steps with next to no signal; the cosine schedule spends its signal evenly, until
# the very end. At $t = 999$ it has $\bar\alpha = 2.4 \cdot 10^{-9}$: *nothing* of `fused` is left. Keep that number in mind, because the paper's
# best setting, **one sampling step, asks the network at exactly this $t$ and at no other** (section 4).

# %% [markdown]
# ## 2. What goes first?
#
# The noise is equally strong at every spatial frequency ("white"); a feature map is not. To see it fade, let $x_0$ be one channel of
# $f_{tir}$; at $t = 0$ one step's worth of noise is in it, too little to see.

# %% alt="A thermal feature map at five steps for two schedules: edges vanish early, blobs survive longer, and at the last step only noise is left"
strongest = f_tir[0].var((1, 2)).argmax()
x_0, at = f_tir[:, [strongest]], [0, T // 4, T // 2, 3 * T // 4, T - 1]
x_0 = (x_0 - x_0.mean()) / x_0.std()
noise = torch.randn(x_0.shape, generator=run.generator())
rows = [[s.q_sample(x_0, t, noise)[0, 0].numpy() for t in at] for s in (cosine, linear)]
titles = [f"t = {t}" for t in at]
title = "A feature map on its way to noise: Eq. (2)"
plot.image_grid(rows, titles, ["cosine", "linear"], title, limits=(-2, 3))
plt.show()


# %%
def radial_power(x):
    """Returns the mean power of a map [C, H, W] at each spatial frequency, in cycles per map."""
    power = torch.fft.fft2(x, norm="ortho").abs().square().mean(0)
    f = torch.fft.fftfreq(x.shape[-1]) * x.shape[-1]
    radius = (f[:, None] ** 2 + f[None, :] ** 2).sqrt().round().long()
    ring = [power[radius == r].mean() for r in range(1, x.shape[-1] // 2 + 1)]
    return torch.stack(ring)


# %% alt="Power of the feature map falls with spatial frequency; the noise floors of four steps cut the curve at ever lower frequencies"
power = radial_power(x_0[0])
# Noise over signal: where the spectrum dips below it, noise wins.
floors = {f"noise at t = {t}": 1 / cosine.snr()[t].item() for t in at[1:-1]}
plot.spectrum(power, floors)
plt.show()

# %% [markdown]
# **What to see.** Power falls, with bumps, towards fine detail (right). Each dashed line is the noise at one step, relative to the faded signal;
# detail below the line is lost in it. As $t$ grows the line climbs, and fine detail goes under before the coarse layout does. So the way
# back is coarse to fine: first ($t$ near $T$) it is decided *where* things are, then they are sharpened. A sampler with a single step must
# do both at once.

# %% [markdown]
# ## 3. The way back: $x_0$ or noise?
#
# Given $x_t$, the two unknowns of Eq. (2) determine each other. A network may predict either:
#
# $$\hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\;\hat z}{\sqrt{\bar\alpha_t}}
# \qquad\Longleftrightarrow\qquad
# \hat z = \frac{x_t - \sqrt{\bar\alpha_t}\;\hat x_0}{\sqrt{1-\bar\alpha_t}}$$
#
# The paper's text and Eq. (6) say noise; the released code predicts $x_0$. An error in $\hat z$ reaches $\hat x_0$ multiplied by
# $\sqrt{1-\bar\alpha_t} / \sqrt{\bar\alpha_t}$.

# %% tags=["nbval-check-output"]
reference = Schedule.cosine(1000)
x, z = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
for t in (100, 500, 999):
    a = reference.alpha_bar[t]
    x_t = a.sqrt() * x + (1 - a).sqrt() * z
    naive_x_0 = (x_t - (1 - a).sqrt() * z) / a.sqrt()
    torch.testing.assert_close(naive_x_0, reference.predict_x_0(x_t[None], t, z[None])[0])
    torch.testing.assert_close(z, reference.predict_noise(x_t[None], t, x[None])[0])
    error = 0.01 * ((1 - a) / a).sqrt()
    print(f"t = {t}: an error of 0.01 in the noise becomes {error:.4g} in x_0")

# %% [markdown]
# At $t = 999$ the factor is 20,000. A network that predicts noise cannot be used with one step from pure noise; one that predicts
# $x_0$ can. That settles which of the two the paper's $s = 1$ must mean.

# %% [markdown]
# ## 4. One sampler step
#
# DDIM (Song et al., 2021) starts from pure noise and walks down a grid of $s$ steps. At each it asks the network for $\hat x_0$, works out the noise
# that this implies, and mixes both again at the next, lower noise level:
#
# $$x_{t'} = \sqrt{\bar\alpha_{t'}}\; \hat x_0 + \sqrt{1 - \bar\alpha_{t'}}\; \hat z$$
#
# It is Eq. (2) with predictions in place of the truth. Nothing is drawn on the way (DDIM's $\eta = 0$; $\eta > 0$ would put fresh noise in the place
# of some of $\hat z$). The grid is `linspace(-1, T-1, s+1)`, reversed, without its last point, $-1$: there we are done. To test the
# sampler alone, any function can play the network; here it is $\tanh$.


# %% tags=["nbval-check-output"]
def naive_sample(predict_x_0, x_t, schedule, s):
    """Samples with s DDIM steps, eta = 0, one formula after the other."""
    grid = [int(t) for t in torch.linspace(-1, schedule.T - 1, s + 1, dtype=torch.float64)][::-1]
    for t, t_next in zip(grid[:-1], grid[1:], strict=True):
        a, one = schedule.alpha_bar[t], torch.tensor(1.0)
        a_next = schedule.alpha_bar[t_next] if t_next >= 0 else one
        x_hat = predict_x_0(x_t)
        z_hat = (x_t - a.sqrt() * x_hat) / (1 - a).sqrt()
        x_t = a_next.sqrt() * x_hat + (1 - a_next).sqrt() * z_hat
    return x_t


for s in (1, 2, 5, 10):
    grid, x_t = reference.grid(s), z[None]
    for t, t_next in zip(grid, [*grid[1:], -1], strict=True):
        x_t = reference.ddim_step(x_t, torch.tanh(x_t), t, t_next)
    torch.testing.assert_close(x_t, naive_sample(torch.tanh, z[None], reference, s))
    print(f"s = {s:2d}: U is asked at t = {grid}")

# %% [markdown]
# ## 5. The smallest GMMT: two half-blind cameras
#
# A scene is one bright disc on a dark ground of 16 x 16 cells. Camera 1 sees the left 5 columns, camera 2 the right 5, and the strip of 6 between
# them **neither** sees. `fused` is the whole scene. A small UNet (notebook 03) learns to make it, by two lines of the paper's **Eq. (6)**:
#
# - **RAW** (the paper's name for regression): $\;\lVert U(0, f_1, f_2) - fused \rVert^2$
# - **DM**: draw a step $t$ and noise for each scene, mix $x_t$ by Eq. (2), and take $\;\lVert U(x_t, t, f_1, f_2) - fused \rVert^2$. (The paper's Eq. 6 has
#   the noise as the target; section 3 said why $x_0$ is used here.)
#
# Network, first weights, scenes and number of training steps are the same; only what stands at the input differs. At test time DM starts from
# pure noise and takes $s$ steps. In GMMT a head is trained on top and its loss added, Eq. (5); here there is none.


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


# %%
from tqdm import tqdm

from gmmt.fusion import DiffusionFusion, OneCall
from gmmt.networks.unet import UNet


def train(fusion, n_steps, batch=32, rate=3e-3):
    """Trains a fusion module on fresh scenes; returns it with its loss at each step."""
    scenes, noise = run.generator(), torch.Generator().manual_seed(seed + 1)
    losses = []
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=rate, weight_decay=0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, n_steps)
    options = {"disable": run.profile == "smoke", "mininterval": 5, "file": sys.stdout}
    for _ in tqdm(range(n_steps), desc=type(fusion).__name__, **options):
        scene, f_1, f_2, _ = half_blind(batch, scenes)
        _, terms = fusion.loss(scene, f_1, f_2, generator=noise)
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
        losses.append(loss.item())
    return fusion.eval(), losses


# %%
n_steps, models = run.pick(smoke=20, cpu=800, gpu=5000), {}
for name, make in {"RAW": OneCall, "DM": DiffusionFusion}.items():
    torch.manual_seed(seed)  # the same initial weights for both
    network = UNet(channels=1, n_blocks=3, inner=16, groups=4)
    models[name], losses = train(make(network, channels=1), n_steps)
    late = sum(losses[-20:]) / 20
    print(f"{name}: loss {losses[0]:.3f} at first, {late:.4f} over the last 20 of {n_steps} steps")

# %% alt="Six scenes in columns. When a camera sees the disc every method restores it. When it is hidden RAW and DM with one step draw a grey smear along the strip, DM with ten steps draws one disc at a made-up place"
test = half_blind(2000, torch.Generator().manual_seed(10_000))
scene, f_1, f_2, hidden = test
with torch.no_grad():
    outputs = {"RAW": models["RAW"].sample(f_1, f_2)}
    for s in sorted({1, 2, steps}):
        generator = torch.Generator().manual_seed(seed)
        outputs[f"DM, s = {s}"] = models["DM"].sample(f_1, f_2, steps=s, generator=generator)
chosen = torch.cat([(~hidden).nonzero()[:3, 0], hidden.nonzero()[:3, 0]]).tolist()
shown = {"fused": scene, "$f_1$": f_1, "$f_2$": f_2}
shown |= {k: outputs[k] for k in ("RAW", "DM, s = 1", f"DM, s = {steps}")}
grid = [[v[i, 0].numpy() for i in chosen] for v in shown.values()]
columns = ["seen"] * 3 + ["hidden"] * 3
title = "Where both cameras are blind, one step gives a blur"
plot.image_grid(grid, columns, list(shown), title, limits=(-1, 1), width=4.6)
plt.show()

# %% [markdown]
# **What to see** (pink in $f_1$, $f_2$: not seen). Left: a camera sees the disc or a part of it, and every method completes it. That is fusion, and
# it is learned. Right: the disc is in the strip. All that can be known is *somewhere in the strip*, and RAW answers with the average of all
# places, a smear. **DM with one step answers with nearly the same smear**: at $t = 999$ its input holds nothing of `fused`, so the best answer in
# the mean square is the same conditional mean, $E[fused \mid f_1, f_2]$. (It is clumpy, and differs between columns, because the network has not
# quite learned to ignore its noise.) With ten steps it commits to *one* disc: sharp, at a place it made up.

# %% [markdown]
# This has a price that can be computed. If a sample is drawn from the right distribution, independently of the truth, both scatter around the
# same mean with the same variance, and their squared distance is the sum: **twice** the error of the mean.

# %% alt="Mean squared error on seen and hidden scenes for RAW and DM with one, two and ten steps, with intervals; for hidden scenes the error grows with the number of steps towards twice that of RAW"
import pandas as pd

from gmmt.results import mean_interval

rows = []
for name, out in outputs.items():
    for which, keep in (("seen", ~hidden), ("hidden", hidden)):
        error = (out - scene).square().mean((1, 2, 3))[keep].numpy()
        rows.append({"method": name, "scenes": which, **vars(mean_interval(error))})
table = pd.DataFrame(rows)
plot.half_blind(table)
plt.show()

# %%
print(table.round(5).to_string(index=False))
saved = run.save(table, "half_blind.csv", source="ours in miniature: two half-blind cameras")
hidden_error = table.query("scenes == 'hidden'").set_index("method").value.round(3)
where = torch.arange(16.0)
mass = {k: (v[hidden, 0] + 1).clamp(min=0).sum(2) for k, v in {"truth": scene, **outputs}.items()}
row = {k: (v * where).sum(1) / v.sum(1) for k, v in mass.items()}
off = (row[f"DM, s = {steps}"] - row["truth"]).abs()
share = 100 * (off > 2).float().mean()
print(f"s = {steps}: {share:.0f} % of hidden discs land over 2 cells (a radius) from the truth")
run.headline("hidden disc, MSE: " + ", ".join(f"{k} {v}" for k, v in hidden_error.items()))

# %% [markdown]
# **What to see** (dots: mean over scenes; lines: 95 % interval over the scenes, of one trained network each). On hidden discs the error of
# DM rises with $s$, nearly to the dotted line, as computed. On seen discs every error is at least ten times smaller; RAW's is five to seven times
# smaller still. Both have the same budget, but DM must learn a thousand tasks, one for each $t$, and is asked at $t = 999$ about one of them. (So
# its lower training loss above is no merit: at most $t$ the input still shows the answer.)
#
# | | paper | released code | here |
# |---|---|---|---|
# | target | noise (text, Eq. 6) | $x_0$ | $x_0$ |
# | weight of $\lvert \hat x_0 - x_0 \rvert^2$ | $\bar\alpha/(1-\bar\alpha)$ (follows) | the same, by its formula | 1 at every $t$ |
# | that weight at $t = 999$ | $2.4 \cdot 10^{-9}$ | $2.4 \cdot 10^{-9}$ | 1 |
# | steps at test | 1 (best of 13 in supp. Table 4) | 1 | 1, 2, 10 |
#
# The third row is a riddle that the paper leaves: the one step that is used at test carries next to no weight in its loss. [Notebook 02](02_prediction_targets.ipynb)
# takes it up.

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# At which step $t$ of the cosine schedule ($T = 1000$) do signal and noise have the same variance? Guess first; then compute it. (The
# curve above says: near the middle. The offset of 0.008 in the schedule makes the answer not quite 500.)

# %%
answer = None  # the first t with alpha_bar[t] <= 1 - alpha_bar[t]

# %% tags=["solution"]
answer = int((reference.snr() <= 1).nonzero()[0])

# %%
assert answer is not None, "no answer yet"
assert reference.alpha_bar[answer] <= 0.5 < reference.alpha_bar[answer - 1], (
    "one of the two is already true before, or not yet"
)

# %% [markdown]
# ## What follows, and what this does not show
#
# - It does **not** show which of RAW and DM is better for *tracking*: there, a head is trained on `fused_star`, and the generative loss is only one
#   of two terms (Eq. 5).
# - The toy's network predicts $x_0$ with equal weight at every $t$; the released weighting is another loss, and is examined later.
# - One training run each: the intervals cover the test scenes, not the luck of training.
#
# **Next:** [02, what does each loss weigh](02_prediction_targets.ipynb).
#
# **References.** Ho, Jain, Abbeel 2020 (DDPM). Nichol, Dhariwal 2021 (cosine schedule). Song, Meng, Ermon 2021 (DDIM). Tang et al. 2024
# (GMMT). Xu et al. 2020 (RoadScene). Dalal, Triggs 2005.
