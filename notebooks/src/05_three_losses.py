# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # RAW, CGAN or DM: what does each learn?
#
# **In one sentence:** RAW learns the average of all answers that fit; DM with ten steps learns to give one of them, at twice the error; DM with one step does
# something between; our CGAN fails, ignoring its noise; and a tracker's loss alone learns something that is not `fused` at all.
#
# Paper: "Generative-Based Fusion Mechanism", Eqs. (5) and (6); the ablation of its Table 2. Runs about 15 s (smoke), 3 min (cpu). Read before
# this: [01](01_noise_schedule.ipynb), [03](03_networks.ipynb).

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
steps: int = 10
lam: float = 1.0

# %%
import matplotlib.pyplot as plt
import torch

from gmmt import notebook, plot

run = notebook.start("05_three_losses", profile=profile, seed=seed)

# %% [markdown]
# ## The idea
#
# The paper's Table 2 compares three ways to train one and the same network $U$ to make `fused`. To see what each learns, one needs data of
# which *everything* is known. So we build a scene of four discs, warm ($+1$) or cold ($-1$) by the toss of a coin, over smooth ground. Camera 1
# sees where discs are; camera 2 whether they are warm. A **dial** $d$ sets the chance that camera 2 loses a disc.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $fused$ | `fused` | (B, 2, 16, 16) | discs with sign; ground |
# | $f_1$ | `f_1` | (B, 2, 16, 16) | discs *without* sign; left half of the ground |
# | $f_2$ | `f_2` | (B, 2, 16, 16) | discs with sign, unless hidden; right half of the ground |
# | $z$ | `z`, `noise` | (B, 2, 16, 16) | unit Gaussian noise |
# | $fused^*$ | `fused_star` | (B, 2, 16, 16) | what the model makes |
# | $\lambda$ | `lam` | | weight of the generative loss, Eq. (5) |


# %% alt="Both channels of fused, f_1 and f_2 for dial 0, one half and 1: in f_1 all discs are bright, in f_2 they have their sign, and more of them vanish as the dial grows"
def make_scenes(n, d, g):
    """Returns fused, f_1, f_2 [n, 2, 16, 16], discs [n, 4, 16, 16], sign and hidden [n, 4]."""
    axis, corner = torch.arange(16.0), torch.tensor([[0.0, 0], [0, 8], [8, 0], [8, 8]]) + 2.5
    at = corner + 2 * torch.rand(n, 4, 2, generator=g)
    distance = (axis[:, None] - at[..., :1, None]) ** 2 + (axis - at[..., 1:, None]) ** 2
    discs = ((2.5 - distance.sqrt()) * 2).clamp(0, 1)
    sign = torch.randint(2, (n, 4), generator=g) * 2.0 - 1
    hidden = torch.rand(n, 4, generator=g) < torch.as_tensor(d).reshape(-1, 1)
    near = torch.exp(-((axis[:, None] - axis) ** 2) / 8)
    ground = near @ torch.randn(n, 1, 16, 16, generator=g) @ near / 5.0
    left, signed = (axis < 8).float(), discs * sign[..., None, None]
    discs_seen = signed, discs, signed * ~hidden[..., None, None]
    ground_seen = ground, ground * left, ground * (1 - left)
    maps = [torch.cat([discs_seen[k].sum(1, True), ground_seen[k]], 1) for k in range(3)]
    return *maps, discs, sign, hidden


scenes = [make_scenes(1, d, run.generator())[:3] for d in (0.0, 0.5, 1.0)]
rows = [[f[0, k] for f in scene for k in (0, 1)] for scene in scenes]
columns = [
    f"{name}, {what}" for name in ("fused", "$f_1$", "$f_2$") for what in ("discs", "ground")
]
labels, title = ["d = 0", "d = 0.5", "d = 1"], "A scene, and what two cameras show"
plot.image_grid(rows, columns, labels, title, (-1.5, 1.5))
plt.show()

# %% [markdown]
# **What to see** (orange and yellow: above zero; dark: below). At $d = 0$ nothing is lost: `fused` can be worked out exactly (sign from $f_2$,
# left ground from $f_1$, right ground from $f_2$). At $d = 1$ camera 2 shows no disc: each disc's place and shape are known, its sign is not, and by
# construction both are equally likely. Between, each disc is hidden with chance $d$, and which are hidden can be seen.
#
# So the truth about every answer is known. The **conditional mean** $E[fused \mid f_1, f_2]$ is exact everywhere but 0 on a hidden disc.
# Drawn from the **conditional distribution**, a hidden disc is $+1$ or $-1$, never 0. A method can aim at one or the other, not both.

# %% [markdown]
# ## 1. RAW, and RAW with noise
#
# RAW, first line of **Eq. (6)**, is plain regression: the squared error between output and `fused`.
#
# $$Loss_{RAW} = \lVert\, U(0, f_1, f_2) - fused \,\rVert^2$$
#
# Of all functions of $(f_1, f_2)$, the one with the least expected squared error is the conditional mean. (For any number $c$, $E(X - c)^2 = Var(X) + (E X
# - c)^2$.) The paper's RAW keeps $U$ and so its noise input; here zeros stand there. Two controls, ours: **NOISE** puts $z$ there and keeps the loss.
# **TRK** has no generative loss at all ($\lambda = 0$, section 5).


# %% tags=["nbval-check-output"]
from gmmt.fusion import VARIANTS, make_fusion, unit_noise
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet


def naive_raw(U, x, fused, f_1, f_2):
    """Mean squared error of U's output, with x in the noise's place; there is no time, so t = 0."""
    error = U(x, torch.zeros(len(x)), f_1, f_2) - fused
    return sum(e**2 for e in error.flatten()) / error.numel()


torch.manual_seed(0)
U, example = (
    UNet(2, n_blocks=3, inner=16, groups=4),
    make_scenes(3, 0.5, torch.Generator().manual_seed(0))[:3],
)
g = lambda: torch.Generator().manual_seed(1)  # noqa: E731
z = unit_noise(example[0], g())
for variant, x in {"RAW": torch.zeros_like(z), "NOISE": z}.items():
    _, terms = make_fusion(variant, U, channels=2).loss(*example, generator=g())
    torch.testing.assert_close(naive_raw(U, x, *example), terms["raw"])
_, terms = make_fusion("TRK", U, channels=2).loss(*example)
print(f"RAW and NOISE: naive = gmmt; TRK's generative terms: {terms}; all: {', '.join(VARIANTS)}")

# %% [markdown]
# ## 2. CGAN: two networks against each other
#
# $G$ ($U$ with $z$ at its input) makes $fused^*$; the discriminator $D$ sees a map and both conditions and says how likely the map is real. They take
# turns. As the paper's text has it, with squared errors (LSGAN; its Eq. 6 prints logarithms): first $D$, towards 1 on `fused`, 0 on $fused^*$,
#
# $$Loss_D = \lVert D(G(z, f_1, f_2), f_1, f_2) \rVert^2 + \lVert 1 - D(fused, f_1, f_2) \rVert^2$$
#
# then $G$, with $D$ held fixed:
#
# $$Loss_G = \lVert 1 - D(G(z, f_1, f_2), f_1, f_2) \rVert^2$$
#
# `fused` is not in $Loss_G$: nothing says *which* real map is asked for. The mean, with its zeros, is easily found out as unreal. So CGAN aims at the
# distribution; that it gets there is not guaranteed.


# %% tags=["nbval-check-output"]
def naive_gan(U, D, z, fused, f_1, f_2):
    """Returns (Loss_D, Loss_G), both as means over the batch."""
    made = U(z, torch.zeros(len(z)), f_1, f_2)
    on_made, on_real = D(made, f_1, f_2), D(fused, f_1, f_2)
    loss_D = sum(p**2 for p in on_made) / len(z) + sum((1 - p) ** 2 for p in on_real) / len(z)
    return loss_D, sum((1 - p) ** 2 for p in on_made) / len(z)


torch.manual_seed(0)
D = Discriminator(channels=2, size=16, widths=(8, 8, 8))
cgan = make_fusion("CGAN", U, channels=2, discriminator=D)
loss_D, loss_G = naive_gan(U, D, z, *example)
torch.testing.assert_close(loss_D, cgan.discriminator_loss(*example, generator=g()))
_, terms = cgan.loss(*example, generator=g())
torch.testing.assert_close(loss_G, terms["cgan"])
terms["cgan"].backward()
assert all(p.grad is None for p in D.parameters())
assert any(p.grad is not None for p in U.parameters())
U.zero_grad()
print("Loss_D and Loss_G: naive = gmmt; G's step gives D no gradient")

# %% [markdown]
# ## 3. DM: restore `fused` from any amount of noise
#
# Draw a step $t$ and noise, mix $x_t = \sqrt{\bar\alpha_t}\, fused + \sqrt{1 - \bar\alpha_t}\; noise$ (Eq. 2), and ask for `fused` back:
#
# $$Loss_{DM} = \lVert\, U(x_t, t, f_1, f_2) - fused \,\rVert^2$$
#
# (Eq. 6 asks for the noise; notebook 01 says why $x_0 = fused$ is used here.) Per $t$ this is again regression, so each answer is a conditional
# mean, given $x_t$ too. With $s = 1$ step at test, $x_t$ is pure noise, and the aim is RAW's mean. With $s = 10$, each step's answer moves $x_t$, and
# the walk ends in *one* of the possibilities. The option `track_t` says at which $t$ the tracker's head gets its input in training: `"random"`, the
# loss's own, or `"last"`, 999 from pure noise, as at test. It does not enter $Loss_{DM}$: the next cell checks.


# %% tags=["nbval-check-output"]
def naive_dm(U, alpha_bar, t, noise, fused, f_1, f_2):
    """Mean squared error of the restored fused, item after item."""
    total = 0
    for i in range(len(t)):
        a = alpha_bar[t[i]].float()
        x_t = a.sqrt() * fused[i] + (1 - a).sqrt() * noise[i]
        x_hat = U(x_t[None], t[i : i + 1], f_1[i : i + 1], f_2[i : i + 1])[0]
        total = total + (x_hat - fused[i]).square().mean()
    return total / len(t)


t, terms = torch.tensor([10, 500, 999]), {}
for track_t in ("random", "last"):
    dm = make_fusion("DM", U, channels=2, track_t=track_t)
    _, terms = dm.loss_at(t, z, *example, generator=g())
    torch.testing.assert_close(naive_dm(U, dm.schedule.alpha_bar, t, z, *example), terms["dm"])
print("DM: naive = gmmt, the same for track_t = random and last")

# %% [markdown]
# ## 4. Train all four
#
# The same $U$ (about 145,000 parameters), first weights, scenes, number of steps, optimiser (AdamW) and rate ($2 \cdot 10^{-3}$ at its peak, one cycle) for
# all; $d$ is drawn anew for each scene. CGAN also trains $D$ (AdamW, constant $10^{-3}$), so it costs more than twice as much per step. Five settings of
# CGAN's two optimisers were tried beforehand; the one with the least error at $d = 0$ is used.


# %%
BATCH, RATE, HEAD_RATE = 16, 2e-3, 5e-2


def build(variant, **options):
    """Returns a fusion module; the same first weights of U each time."""
    torch.manual_seed(seed)
    U = UNet(channels=2, n_blocks=3, inner=16, groups=4)
    D = Discriminator(channels=2, size=16, widths=(32, 32, 16)) if variant == "CGAN" else None
    return make_fusion(variant, U, channels=2, discriminator=D, **options)


def track_loss(head, fused_star, discs, sign):
    """A tracker's loss in miniature: a 1 x 1 convolution must mark the warm discs (log loss)."""
    warm = (discs * (sign > 0)[..., None, None]).sum(1, keepdim=True)
    return torch.nn.functional.binary_cross_entropy_with_logits(head(fused_star), warm)


# %%
def train(fusion, n_steps, lam=None):
    """Returns (fusion, head, D's mean answers [real, made]); lam None: no head's loss."""
    head, answers = torch.nn.Conv2d(2, 1, 1), []
    data, noise = run.generator(), torch.Generator().manual_seed(seed + 1)
    parts = [{"params": m.parameters(), "lr": RATE} for m in (fusion.network, head)]
    optimizer = torch.optim.AdamW(parts, weight_decay=0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, [RATE, HEAD_RATE], n_steps)
    D = getattr(fusion, "discriminator", None)
    rival = D and torch.optim.AdamW(D.parameters(), 1e-3, weight_decay=0)
    for _ in range(n_steps):
        *x, discs, sign, _ = make_scenes(BATCH, torch.rand(BATCH, generator=data), data)
        if rival:  # D first, G fixed
            rival.zero_grad()
            fusion.discriminator_loss(*x, generator=noise).backward()
            rival.step()
            with torch.no_grad():
                maps = x[0], fusion.sample(*x[1:], generator=noise)
                answers.append([D(m, *x[1:]).mean().item() for m in maps])
        fused_star, terms = fusion.loss(*x, generator=noise)
        loss = (1 if lam is None else lam) * sum(terms.values())
        if lam is not None:
            loss = loss + track_loss(head, fused_star, discs, sign)  # Eq. (5)
        optimizer.zero_grad(), loss.backward(), optimizer.step(), plan.step()
    return fusion.eval(), head, answers


# %%
import pandas as pd
from tqdm import tqdm

n_steps, n_test = run.pick(smoke=8, cpu=500, gpu=4000), run.pick(smoke=32, cpu=256)
bar = {"disable": run.profile == "smoke", "file": sys.stdout, "mininterval": 20}
trained = {
    name: train(build(name), n_steps) for name in tqdm(("RAW", "NOISE", "CGAN", "DM"), **bar)
}
models = {name: (fusion, 1) for name, (fusion, *_) in trained.items()}
models["DM, s = 1"] = models.pop("DM")
models[f"DM, s = {steps}"] = (trained["DM"][0], steps)


@torch.no_grad()
def sample(name, f_1, f_2, k):
    """Returns draw number k of a model's fused_star."""
    fusion, s = models[name]
    return fusion.sample(f_1, f_2, steps=s, generator=torch.Generator().manual_seed(1000 + k))


# %% alt="One scene with seen and hidden discs. Two draws of each model: RAW and NOISE leave hidden discs out, DM with ten steps draws them at full strength with a made-up sign"
example = make_scenes(6, 0.5, torch.Generator().manual_seed(seed + 5))
i = example[5].sum(1).sub(2).abs().argmin()  # a scene with two of four discs hidden
shown = [example[k][i, 0] for k in (1, 2, 0)]
rows = [[*shown, *(sample(n, *example[1:3], k)[i, 0] for k in (0, 1, 2))] for n in models]
columns = ["$f_1$", "$f_2$", "fused", "draw 1", "draw 2", "draw 3"]
title = "The disc channel of one scene, three draws of each model"
plot.image_grid(rows, columns, list(models), title, (-1.5, 1.5), width=6.5)
plt.show()

# %% [markdown]
# **What to see.** Top row of the scene: two discs that $f_2$ shows; bottom row: two that it hides. **RAW** and **NOISE** restore the first and leave the
# second out: the mean of warm and cold is nothing. **DM, s = 10** draws all four; a hidden one is warm in one draw, cold in another. **DM, s = 1** hints at
# hidden discs, faintly, differently in each draw. **CGAN** draws all four too loud, with smears between them, and nearly the same
# in all three draws.

# %% [markdown]
# Three numbers for each method and dial, on fresh scenes:
#
# - **error**: squared error to `fused`, mean over both channels and all positions. The least possible is that of the conditional mean: per hidden disc
#   the sum of its squared shape. A faithful independent sample has *twice* that (notebook 01).
# - **commits**: share of hidden discs whose mean value over the disc's core is near one of the two possible ones ($0.5$ to $1.5$ in size). The mean,
#   0, fails; a true sample passes.
# - **changes its mind**: share of hidden discs whose sign differs between two draws of $z$. Fair, independent tosses give 50 %; 0 % means that $z$ is
#   ignored, 0 commitment or not.


# %%
from gmmt.results import mean_interval


def core_mean(out, discs):
    """Returns the mean of the disc channel over each disc's core [n, 4]."""
    core = (discs == 1).float()
    return (out[:, :1] * core).sum((2, 3)) / core.sum((2, 3))


rows = []
for d in (0.0, 0.25, 0.5, 0.75, 1.0):
    fused, f_1, f_2, discs, sign, hidden = make_scenes(n_test, d, torch.Generator().manual_seed(99))
    least = ((discs * hidden[..., None, None]).sum(1) ** 2).mean((1, 2)) / 2
    found = {("least possible", "error"): least}
    for name in models:
        out = [sample(name, f_1, f_2, k) for k in (0, 1)]
        a, b = (core_mean(x, discs)[hidden] for x in out)
        found[name, "error"] = (out[0] - fused).square().mean((1, 2, 3))
        found[name, "commits"] = (a.abs() - 1).abs() < 0.5
        found[name, "changes its mind"] = a * b < 0
    for (name, measure), v in found.items():
        key = {"method": name, "d": d, "measure": measure}
        rows += [key | vars(mean_interval(v.double()))] if len(v) else []
table = pd.DataFrame(rows)

# %% alt="Three panels against the dial: squared error with the least possible and twice that, share of hidden discs committed to, share that changes sign between draws, for RAW, NOISE, CGAN and DM with one and ten steps"
C = plot.COLORS | {"NOISE": "0.5", "DM, s = 1": plot.COLORS["DM"], "least possible": "black"}
fig, axes = plt.subplots(1, 3, figsize=(7.2, 3.1))
for ax, measure in zip(axes, ("error", "commits", "changes its mind"), strict=True):
    for k, (name, p) in enumerate(table[table.measure == measure].groupby("method", sort=False)):
        look = {"color": C.get(name, "#7B3F6B"), "label": name, "marker": "o", "ms": 3}
        look["ls"] = ":" if name == "least possible" else "-"
        bars = [p.value - p.low, p.high - p.value]
        ax.errorbar(p.d + 0.012 * (k - 2), p.value, bars, **look)
    top = None if measure == "error" else 1.03
    ax.set(title=measure, xlabel="dial d", xlim=(-0.06, 1.06), ylim=(0, top))
twice = table.query("method == 'least possible'")
axes[0].plot(twice.d, 2 * twice.value, ":", color="0.6", label="twice that")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
plt.show()

# %%
wide = table[table.d.isin([0, 0.5, 1])].pivot_table(
    index=["measure", "d"], columns="method", values="value"
)
print(wide[[*models, "least possible"]].round(3).to_string(na_rep="-"))
errors = table.query("measure == 'error' and d == 1").set_index("method").value.round(3)
saved = run.save(table, "three_losses.csv", source="ours in miniature: discs with hidden signs")
run.headline("all signs hidden, MSE: " + ", ".join(f"{k} {v}" for k, v in errors.items()))

# %% [markdown]
# **What to see** (means; 95 % intervals over scenes or hidden discs). Where nothing is hidden, $d = 0$, RAW and DM are nearly exact: *easy fusion
# needs no generative model*. As the dial turns, **RAW** stays at the least possible error and never commits; so does **NOISE**. (That it changes sign in a
# fifth of cases means nothing: its values are near 0.) **DM, s = 10** commits nearly always, tosses fair coins, and pays twice the least error
# and a little more: as samples right, as an estimate half as good as RAW.
#
# **DM, s = 1** was to equal RAW, since at $t = 999$ its input says nothing. It does not: it goes part of the way to a sample, with a third more error. Likely cause: at
# slightly smaller $t$ the input does hint at the sign, and the network hardly tells these steps apart. Whether longer training mends it is open.

# %% alt="D's mean answer on real and on made maps over CGAN's training"
fig, ax = plt.subplots(figsize=(5, 2.6))
curves = dict(zip(("fused", "made"), torch.tensor(trained["CGAN"][2]).T, strict=True))
plot.lines(
    ax, range(n_steps), curves, "training step", "mean answer of D", "CGAN: what D says", lw=0.8
)
plt.show()
late = torch.tensor(trained["CGAN"][2])[-50:].mean(0)
print(f"last steps: D answers {late[0]:.2f} on fused, {late[1]:.2f} on made maps")

# %% [markdown]
# **What to see.** $D$ wins: at the end it is nearly sure of both, and where $D$ is sure, its sigmoid is flat and $G$ learns little. In the panels above
# **CGAN fails on both counts**: the largest error at every dial, already without ambiguity, and nearly the same answer for every $z$: it changes its
# mind on 2 % of hidden discs. It neglects its noise, as conditional GANs often do (Isola et al., 2017). In the other four settings tried it was
# no better in this respect: 1 % at most (600 to 700 steps each; not stored).

# %% [markdown]
# ## 5. With a tracker's head: Eq. (5)
#
# In GMMT a head reads $fused^*$, and its loss is added:
#
# $$Loss = Loss_{track} + \lambda\, Loss_{gen}$$
#
# Our head is one 1 x 1 convolution (3 numbers, rate 0.05) that must mark the *warm* discs; $Loss_{track}$ is the log loss of its answers. **TRK** is $\lambda = 0$: the same $U$,
# trained by the head alone. Measured on disc cores at $d = 0.5$: the log loss on seen discs (0 is perfect) and on hidden ones. There nobody can know, and the
# best answer is "50 %": a log loss of $\ln 2 = 0.69$. Being surer costs more. All are asked as at test; DM with $s = 1$.
#
# (A first run had the head at $U$'s rate, 0.002. It learned too slowly and bent $U$ instead: TRK's error was 54, RAW's log loss on seen discs 0.69. Hence
# 0.05. The two DMs differed in the same way then.)

# %%
plan = {"TRK (lam = 0)": ("TRK", 0.0, {}), f"RAW, lam = {lam:g}": ("RAW", lam, {})}
for track_t in ("last", "random"):
    plan[f"DM, lam = {lam:g}, {track_t} t"] = ("DM", lam, {"track_t": track_t})
fused, f_1, f_2, discs, sign, hidden = make_scenes(n_test, 0.5, torch.Generator().manual_seed(99))
rows = []
for name, (variant, weight, options) in tqdm(plan.items(), **bar):
    fusion, head, _ = train(build(variant, **options), n_steps, weight)
    with torch.no_grad():
        fused_star = fusion.sample(f_1, f_2, generator=torch.Generator().manual_seed(1000))
        margin = core_mean(head(fused_star), discs) * sign  # above 0: right
    log_loss = torch.nn.functional.softplus(-margin)
    measures = {"seen discs": log_loss[~hidden], "hidden discs": log_loss[hidden]}
    measures["distance to fused"] = (fused_star - fused).square().mean((1, 2, 3))
    for measure, v in measures.items():
        rows.append({"method": name, "measure": measure, **vars(mean_interval(v.double()))})
heads = pd.DataFrame(rows)

# %% alt="Log loss on seen discs, log loss on hidden discs and squared distance to fused for TRK, RAW and two forms of DM"
fig, axes = plt.subplots(1, 3, figsize=(7.2, 2.4), sharey=True)
colors = ["0.4", C["RAW"], C["DM"], "#7B3F6B"]
for ax, (measure, p) in zip(axes, heads.groupby("measure", sort=False), strict=True):
    unit = "squared error" if "fused" in measure else "log loss"
    plot.forest(ax, list(p.method), list(p.itertuples()), unit, measure, colors)
    if measure == "hidden discs":
        ax.axvline(0.693, color="0.5", ls=":")  # ln 2
    else:
        ax.set(xscale="log", xlim=(p.low.min() / 2, p.high.max() * 2))
        ax.xaxis.set_minor_formatter(plt.NullFormatter())
plt.show()

# %%
print(heads.round(4).to_string(index=False))
saved = run.save(
    heads, "heads.csv", source="ours in miniature: discs with a head, Eq. (5), d = 0.5"
)

# %% [markdown]
# **What to see** (95 % intervals, over discs or scenes). **TRK** serves the head best, seen and hidden, with a $fused^*$ that has
# nothing to do with `fused`: its squared error is 7. $\lambda = 0$ is another network, not "RAW without a loss". **RAW** stays near `fused` and
# serves the head a little worse.
#
# The two **DM** differ by `track_t` alone. With *last* the head does well, but $fused^*$ drifts away (error 1.9): at $t = 999$ the
# head's loss acts on every item, the generative loss on one in a thousand. With *random* $fused^*$ stays near `fused`, and the head is
# **too sure on hidden discs** (0.94, worse than "50 %"): in training it met restorations at small $t$, in which the sign shows through
# $x_t$. At test nothing shows. Neither is what one wants: a mismatch of training and test there, a generative loss without grip here.

# %% [markdown]
# ## Side by side
#
# | | paper | released code | here |
# |---|---|---|---|
# | RAW | L2 to `fused` (Eq. 6); "tracking loss only" in the supplement's Sec. J | none | RAW, and TRK apart |
# | CGAN | log loss (Eq. 6), squared error (text) | none | squared error |
# | DM's target | noise | $x_0$, weighted | $x_0$, weight 1 |
# | head's $t$ in training | not said | random | both |
# | steps at test | 1 | 1 | 1 and 10 |
# | $\lambda$ | 3 or 5 for the headline | not given | 1 |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# Let a hidden disc be warm with chance $p = 0.8$ instead of 0.5. What is the expected squared error at its core (true value $\pm 1$) of (a) the
# conditional mean, (b) an independent draw from the true distribution, (c) "always warm"?

# %%
answer = None  # (a, b, c)

# %% tags=["solution"]
p = 0.8
mean = p - (1 - p)
a = p * (1 - mean) ** 2 + (1 - p) * (-1 - mean) ** 2  # the variance, 4 p (1 - p)
answer = (a, 2 * a, 4 * (1 - p))

# %%
assert answer is not None, "no answer yet"
truth, draw = torch.where(
    torch.rand(2, 400_000, generator=torch.Generator().manual_seed(3)) < 0.8, 1.0, -1.0
)
simulated = [(truth - guess).square().mean().item() for guess in (truth.mean(), draw, 1.0)]
assert all(abs(x - y) < 0.02 for x, y in zip(answer, simulated, strict=True)), "not (a, b, c)"

# %% [markdown]
# ## What follows, and what this does not show
#
# - One training run each, a few hundred steps: intervals cover test scenes or discs (of one scene, four), not the luck of training. A CGAN with
#   other settings, a longer one, or one with a tracking loss may do better; DM and RAW too.
# - The discs' ambiguity is *built in*. Whether a tracker's features are ambiguous given both cameras, and whether committing helps its head,
#   this does not show. It says what each loss can aim at.
#
# **Next:** [10, what exactly is a tracker's score?](10_metrics.ipynb)
#
# **References.** Mao et al. 2017 (LSGAN). Mirza, Osindero 2014 (CGAN). Isola et al. 2017
# (pix2pix). Ho, Jain, Abbeel 2020 (DDPM). Song, Meng, Ermon 2021 (DDIM). Tang et al. 2024
# (GMMT).
