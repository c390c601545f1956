# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is the network U made of?
#
# **In one sentence:** of three parts, each a few lines long (a way to be told the time, convolutions or attention that mix positions, and skip
# connections that join equal depths), put together as a U in two kinds, UNet and UViT; with one sampling step, the time folds away.
#
# Paper: "Generative-Based Fusion Mechanism" (Fig. 2); supplement, Fig. 1 (the discriminator), Fig. 2d and Sec. F (U). Runs about 10 s under
# every profile. Read before this: [01](01_noise_schedule.ipynb).

# %% tags=["colab-setup"]
import sys

if "google.colab" in sys.modules:  # elsewhere this cell does nothing
    source = "git+https://github.com/OWNER/gmmt"  # OWNER: where you opened this notebook from
    get_ipython().run_line_magic("pip", f"install -q {source}")  # noqa: F821

# %% tags=["parameters"]
profile: str = "auto"
seed: int = 0
draws: int = 12

# %%
import matplotlib.pyplot as plt
import torch

from gmmt import notebook, plot

run = notebook.start("03_networks", profile=profile, seed=seed)

# %% [markdown]
# ## The idea
#
# A tracker sees through two cameras; each gives a **feature map**, a grid of vectors. GMMT asks one network $U$ to make the combined map
# `fused` out of both. The same $U$ is used by the diffusion model (DM) and by the conditional generative adversarial network (CGAN).
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $x_t$ | `x` | (B, C, H, W) | `fused`, noisy (DM); pure noise $z$ (CGAN) |
# | $t$ | `t` | (B,) | which step of the noise schedule; 999 is pure noise |
# | $f_t$ | `time` | (B, D) | the same, as a vector of features |
# | $f_{rgb}, f_{tir}$ | `f_1`, `f_2` | (B, C, H, W) | one camera's features each, the *conditions* |
# | $U(x_t, f_1, f_2, f_t)$ | `net(x, t, f_1, f_2)` | (B, C, H, W) | what $U$ makes of them |
# | $n$ | `n_blocks` | | blocks on each side of the U |
# | $D$ | `Discriminator` | (B,) | CGAN: probability that a map is real |
#
# B maps in a batch, C channels (768 in the paper's transformer trackers), H x W positions.


# %% alt="Two data flows. Diffusion: fused and noise are mixed to x_t, which goes with f_1, f_2 and t into U, out comes x_0_hat, compared with fused. CGAN: z, f_1, f_2 go into the same U, out comes fused*, which the discriminator D tells from fused"
def draw(ax, boxes, arrows, title):
    """Draws boxes {name: (x, y, text, colour)} and arrows between them."""
    texts = {}
    for k, (x, y, text, c) in boxes.items():
        texts[k] = ax.text(x, y, text, ha="center", va="center", fontsize=8)
        texts[k].set_bbox({"boxstyle": "round", "fc": c + "22", "ec": c})
    for a, b in (pair.split(">") for pair in arrows.split()):
        ends = {"patchA": texts[a].get_bbox_patch(), "patchB": texts[b].get_bbox_patch()}
        ax.annotate("", boxes[b][:2], boxes[a][:2], arrowprops={"arrowstyle": "-|>"} | ends)
    ax.set(xlim=(-0.4, 9.6), ylim=(-0.5, 2.6), title=title, xticks=[], yticks=[], frame_on=False)


C, gray = plot.COLORS, "#777777"
both = {"1": (3.2, 1, "$f_1$", C["RGB"]), "2": (3.2, 0, "$f_2$", C["TIR"])}
dm = both | {"f": (0, 2, "$fused$", C["fused"]), "n": (0, 1, "noise", gray)}
dm |= {"x": (1.6, 2, "mix by\nEq. (2)", gray), "c": (3.2, 2, "$x_t$", gray)}
dm |= {"t": (4.9, 2.2, "$t$", gray), "u": (4.9, 1, "U", C["DM"])}
dm |= {"o": (6.6, 1, r"$\hat x_0$", C["DM"]), "l": (8.5, 1, "compare\nwith $fused$", gray)}
gan = both | {"z": (3.2, 2, "noise $z$", gray), "u": (4.9, 1, "U", C["CGAN"])}
gan |= {"o": (6.6, 1, "$fused^*$", C["CGAN"]), "f": (6.6, 2, "$fused$", C["fused"])}
gan |= {"k": (6.6, 0, "$f_1, f_2$", gray), "d": (8.5, 1, "D: real\nor made?", gray)}
fig, axes = plt.subplots(2, 1, figsize=(7, 4))
draw(axes[0], dm, "f>x n>x x>c c>u t>u 1>u 2>u u>o o>l", "Diffusion (DM) in training")
draw(axes[1], gan, "z>u 1>u 2>u u>o o>d f>d k>d", "CGAN in training: the same U")
plt.show()

# %% [markdown]
# **What to see.** In both, three maps are laid on top of each other and go into $U$: something noisy, $f_1$ and $f_2$. That is all that
# "conditional" means here: *concatenation* of channels, so the first layer reads 3C of them. DM tells $U$ the time and compares the
# output with `fused` (drawn with $\hat x_0$ as output, as in the released code; the paper's text predicts the noise). CGAN has no time,
# and a second network $D$ compares. At test, $x_t$ starts as pure noise, and $D$ is not used.

# %% [markdown]
# ## 1. Being told the time
#
# A number like $t = 999$ is a poor input: it is large, and neighbours look alike. So it becomes a vector of sines and cosines with
# different wavelengths (Vaswani et al., 2017):
#
# $$f_t = \big[\sin(\omega_0 t), \dots, \sin(\omega_{K-1} t),\ \cos(\omega_0 t), \dots, \cos(\omega_{K-1} t)\big],
# \qquad \omega_k = 10000^{-k/K}$$
#
# with $K$ half the vector's length. Like the hands of a clock: fast ones tell neighbours apart, slow ones tell early from late. UNet has the sines
# first, UViT the cosines.


# %% tags=["nbval-check-output"]
import math

from gmmt.networks.embedding import sinusoidal


def naive_time(t, dim, cosine_first=False):
    """Returns the features of one time as a list, number by number."""
    angles = [t * 10_000 ** (-k / (dim // 2)) for k in range(dim // 2)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    return cosines + sines if cosine_first else sines + cosines


like = torch.zeros(1, dtype=torch.float64)
for t in (0, 1, 500, 999):
    for order in (False, True):
        ours = sinusoidal(torch.tensor([t]), 16, like, cosine_first=order)[0]
        torch.testing.assert_close(
            torch.tensor(naive_time(t, 16, order)).double(), ours, atol=1e-6, rtol=1e-5
        )
    first = [round(v, 4) for v in naive_time(t, 16)[:3]]
    print(f"t = {t:3d}: UNet's first three of 16 features {first}")

# %% alt="Heat maps of 64 time features. Fed with steps 0 to 999 all wavelengths show; fed with a noise level between 0 and 1 most rows are constant"
fig, axes = plt.subplots(1, 2, figsize=(7, 2.7), sharey=True)
for ax, top, what in zip(axes, (999, 1), ("step t", "noise level"), strict=True):
    features = sinusoidal(torch.linspace(0, top, 400), 64, torch.zeros(1))
    image = ax.imshow(
        features.T, aspect="auto", extent=(0, top, 64, 0), cmap="coolwarm", clim=(-1, 1)
    )
    ax.set(xlabel=f"{what}", title=f"fed with the {what}")
    ax.grid(False)
axes[0].set_ylabel("feature")
fig.colorbar(image, ax=axes)
plt.show()

# %% [markdown]
# **What to see.** Left, the paper's way, a step: upper half sines, lower half cosines, from fast to slow. Right, the released code's way: it feeds
# a noise *level* between 0 and 1 into the same formula. Even the fastest wave ($2\pi$) does not complete a turn, and most features
# hardly move. The network is told the time in a whisper. Ours feeds the step (`time="step"`); `time="level"` is there to compare.

# %% [markdown]
# ## 2. A residual block, and how time gets in
#
# The brick of UNet. **Norm**: within each of a few groups of channels, subtract the mean and divide by the standard deviation. **SiLU**: $a \cdot
# \mathrm{sigmoid}(a)$, a smooth version of "keep what is positive". **Convolution**: each position becomes a weighted sum of its 3 x 3 neighbourhood.
#
# $$h = \mathrm{conv}_1(\mathrm{silu}(\mathrm{norm}_1(x))) + W f_t + b, \qquad
# y = \mathrm{conv}_2(\mathrm{silu}(\mathrm{norm}_2(h))) + x$$
#
# Time **shifts each channel** by one number, the same at all positions. The "$+\,x$" at the end makes the block *residual*: it learns a
# change, not the whole. (If the number of channels changes, $x$ passes a 1 x 1 convolution, to match.)

# %% tags=["nbval-check-output"]
import torch.nn.functional as F

from gmmt.networks.unet import ResidualBlock, SelfAttention, UNet


def naive_block(b, x, time):
    """Computes a ResidualBlock without attention from its weights."""
    h = F.silu(F.group_norm(x, b.norm_1.num_groups, b.norm_1.weight, b.norm_1.bias))
    h = F.conv2d(h, b.conv_1.weight, b.conv_1.bias, padding=1)
    shift = time @ b.shift.weight.T + b.shift.bias
    h = h + shift[:, :, None, None]  # one number a channel
    h = F.silu(F.group_norm(h, b.norm_2.num_groups, b.norm_2.weight, b.norm_2.bias))
    h = F.conv2d(h, b.conv_2.weight, b.conv_2.bias, padding=1)
    return h + F.conv2d(x, b.match.weight, b.match.bias)


torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # the checks below then agree to many digits
block, x, time = ResidualBlock(4, 8, 16, 2), torch.randn(3, 4, 7, 7), torch.randn(3, 16)
torch.testing.assert_close(naive_block(block, x, time), block(x, time))
print(f"residual block: {tuple(x.shape)} -> {tuple(block(x, time).shape)}, naive = gmmt")

# %% [markdown]
# ## 3. Attention: every position asks all others
#
# A 3 x 3 convolution sees its neighbours only. In **attention** each position $i$ makes three vectors from its own: a query $q_i$ (what
# it looks for), a key $k_i$ (what it offers to be found by), a value $v_i$ (what it passes on). With all of them as rows of $Q, K, V$:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\Big(\frac{Q K^\top}{\sqrt C}\Big)\, V$$
#
# Softmax makes each row positive with sum 1: a weighted mean of all positions' values. Dividing by $\sqrt C$, the vectors' length, keeps
# the weights from collapsing onto one position. UViT cuts the vectors into several *heads*, does this in each, and follows with a small
# two-layer network (MLP) at each position.


# %%
def naive_attention(q, k, v):
    """Mixes the values of all positions: q, k, v [..., N, C]."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights @ v


def naive_transformer(b, x):
    """Computes a TransformerBlock, head after head."""
    d = x.shape[-1] // b.heads
    q, k, v = b.qkv(b.norm_1(x)).chunk(3, dim=-1)
    heads = [slice(i * d, (i + 1) * d) for i in range(b.heads)]
    mixed = [naive_attention(q[..., s], k[..., s], v[..., s]) for s in heads]
    x = x + b.out(torch.cat(mixed, dim=-1))
    return x + b.mlp(b.norm_2(x))


# %% tags=["nbval-check-output"]
from gmmt.networks.uvit import TransformerBlock, UViT

torch.manual_seed(0)
layer, x = SelfAttention(8, groups=2), torch.randn(3, 8, 5, 6)
rows = layer.qkv(layer.norm(x)).flatten(2).transpose(1, 2)  # [B, positions, 3C]
mixed = naive_attention(*rows.chunk(3, dim=2)).transpose(1, 2).reshape(x.shape)
torch.testing.assert_close(x + layer.out(mixed), layer(x))
block, tokens = TransformerBlock(12, heads=3), torch.randn(3, 30, 12)
torch.testing.assert_close(naive_transformer(block, tokens), block(tokens))
print("UNet's attention, one head of 8 channels, 5 x 6 positions: naive = gmmt")
print("UViT's block, 3 heads of 4 channels, 30 tokens:            naive = gmmt")

# %% [markdown]
# ## 4. UNet: down, middle, up
#
# On the way **down** the map is halved twice (stride-2 convolutions), so that a 3 x 3 window covers more of the scene; on the way **up** it is
# enlarged again. What was fine is lost on the way, so each block's result on the way down is also handed straight across: a **skip
# connection**, joined by concatenation, last one first.
#
# Halving 31 gives 16, halving 16 gives 8; doubling 8 gives 16, but doubling 16 gives 32, not 31. The released code has fixed sizes and breaks there (the
# Siamese tracker's maps are 31 x 31). Ours enlarges *to the size of the skip connection*, so any $H, W \ge 4$ will do.


# %%
def naive_unet(net, x, t, f_1, f_2):
    """The paper's UNet with one block a level, written out."""
    time = net.time(sinusoidal(t, net.inner, like=x))
    (a, halve_a, b, halve_b, c), (up_c, grow_b, up_b, grow_a, up_a) = net.down, net.up
    s_a = a(net.inlet(torch.cat([x, f_1, f_2], dim=1)), time)
    s_b = b(halve_a(s_a), time)
    s_c = c(halve_b(s_b), time)
    h = net.middle[0](s_c, time)
    h = up_c(torch.cat([h, s_c], dim=1), time)
    h = grow_b.conv(F.interpolate(h, size=s_b.shape[2:]))
    h = up_b(torch.cat([h, s_b], dim=1), time)
    h = grow_a.conv(F.interpolate(h, size=s_a.shape[2:]))
    h = up_a(torch.cat([h, s_a], dim=1), time)
    return net.outlet[0]["conv"](F.silu(net.outlet[0]["norm"](h)))


# %% tags=["nbval-check-output"]
torch.manual_seed(0)
small = UNet(channels=2, n_blocks=3, inner=16, groups=4)
for size in ((16, 16), (31, 31), (5, 4)):
    x, f_1, f_2 = torch.randn(3, 2, 2, *size)
    out = small(x, torch.tensor([999, 10]), f_1, f_2)
    torch.testing.assert_close(naive_unet(small, x, torch.tensor([999, 10]), f_1, f_2), out)
    print(f"H x W = {size[0]:2d} x {size[1]:2d}: out {tuple(out.shape)}, naive = gmmt")
for form in ("paper", "released"):
    for n in (3, 9):
        net = UNet(channels=8, n_blocks=n, groups=4, form=form)
        sides = [
            sum(isinstance(m, ResidualBlock) for m in s) for s in (net.down, net.middle, net.up)
        ]
        print(f"{form:8s} form, n = {n}: {sides[0]} blocks down, {sides[1]} middle, {sides[2]} up")

# %% [markdown]
# The supplement draws $n$ blocks down, 1 in the middle, $n$ up (Fig. 2d; its best is $n = 9$). The released code has more: one block more a level on
# the way up (12) and two in the middle, a second outlet, and near the end it **adds $f_{rgb}$**, which the paper does not mention. `form=` chooses.

# %% [markdown]
# ## 5. UViT: every position is a token
#
# The second kind (Bao et al., 2023) has no levels. Each position's 3C numbers pass one linear layer and become a **token**, a vector; the time
# is *one more token*. Attention does not know where a token is from, so each gets a learned **position vector** added; they are learned for 16 x 16
# and interpolated for other sizes. Then $n$ blocks, one in the middle, $n$ more; block $i$ from the end also gets what came out of block
# $i$ from the start (concatenate, then a linear layer back to the width). So the U is in the skips alone. The time token is dropped, the
# rest laid out as a map again, and one convolution smooths it.


# %% tags=["nbval-check-output"]
def naive_uvit(net, x, t, f_1, f_2):
    """The paper's UViT with one block a side, written out, for H = W = net.size."""
    tokens = net.inlet(torch.cat([x, f_1, f_2], dim=1).flatten(2).transpose(1, 2))
    time = sinusoidal(t, net.dim, like=x, cosine_first=True)
    h = torch.cat([time[:, None], tokens], dim=1) + net.position
    skip = naive_transformer(net.down[0], h)
    h = naive_transformer(net.middle, skip)
    h = net.up[0].merge(torch.cat([h, skip], dim=-1))
    h = naive_transformer(net.up[0], h)
    h = net.outlet(net.norm(h))[:, 1:]  # without the time token
    return net.smooth(h.transpose(1, 2).reshape(x.shape))


torch.manual_seed(0)
vit = UViT(channels=2, n_blocks=1, dim=24, heads=3, size=8)
x, f_1, f_2 = torch.randn(3, 2, 2, 8, 8)
out = vit(x, torch.tensor([999, 10]), f_1, f_2)
torch.testing.assert_close(naive_uvit(vit, x, torch.tensor([999, 10]), f_1, f_2), out)
print(f"learned for 8 x 8: {len(vit.position[0])} position vectors, naive = gmmt")
x, f_1, f_2 = torch.randn(3, 2, 2, 31, 31)
print(f"asked for 31 x 31: out {tuple(vit(x, torch.tensor([999, 10]), f_1, f_2).shape)}")
torch.set_default_dtype(torch.float32)

# %% [markdown]
# ## 6. What can one position of the output see?
#
# Change the input at one position a little: how much does the output *in the centre* change? That is the size of the gradient, and automatic
# differentiation gives it for all input positions at once. Three networks with random weights, no training: the UNet without its attention, the UNet,
# the UViT. For the map at the right scale we take the mean over some draws of weights and inputs.


# %%
def seen_by_centre(make, size, n):
    """Returns |d out[centre] / d input| for n draws [n, size, size], each with sum 1."""
    maps = []
    for k in range(n):
        torch.manual_seed(seed + k)
        net, (x, f_1, f_2) = make(), torch.randn(3, 1, 2, size, size)
        x.requires_grad_()
        net(x, torch.tensor([999]), f_1, f_2)[0, 0, size // 2, size // 2].backward()
        maps.append(x.grad[0].norm(dim=0))
    return torch.stack([m / m.sum() for m in maps])


def unet_without(*kinds):
    """Returns a small UNet in which all layers of the given kinds do nothing."""
    net = UNet(channels=2, n_blocks=3, inner=16, groups=4)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, kinds):
                setattr(module, name, torch.nn.Identity())
    return net


# %% tags=["nbval-check-output"]
norm, size = torch.nn.GroupNorm, 112
for name, kinds in {
    "convolutions only": (SelfAttention, norm),
    "with norms": (SelfAttention,),
}.items():
    torch.manual_seed(0)
    reached = seen_by_centre(lambda kinds=kinds: unet_without(*kinds), size, 1)[0] > 0
    high, wide = reached.any(1).sum().item(), reached.any(0).sum().item()
    print(f"UNet, {name}: the centre of {size} x {size} depends on {high} x {wide} positions")

# %% alt="Three heat maps on a log scale of what the output's centre depends on, for a UNet without attention, a UNet and a UViT"
kinds = {"UNet, no attention": lambda: unet_without(SelfAttention), "UNet": unet_without}
kinds["UViT"] = lambda: UViT(channels=2, n_blocks=3, dim=24, heads=3, size=32)
seen = {name: seen_by_centre(make, 32, draws) for name, make in kinds.items()}
maps = [(s.mean(0) / s.mean(0).max()).log10().numpy() for s in seen.values()]
title = "What the centre of the output depends on (weights at random)"
figure = plot.image_row(maps, list(seen), title, limits=(-4, 0))
bar = figure.colorbar(figure.axes[-1].images[0], ax=figure.axes, shrink=0.8)
bar.set_label("|gradient|, largest = 1", fontsize=8)
bar.set_ticks([-4, -2, 0], labels=["$10^{-4}$", "$10^{-2}$", "1"])
plt.show()

# %%
import pandas as pd

from gmmt.results import mean_interval

away = (torch.arange(32) - 16).abs()
far = torch.maximum(away[:, None], away) > 8
shares = {name: mean_interval(100 * s[:, far].sum(1).numpy()) for name, s in seen.items()}
table = pd.DataFrame([{"network": name, **vars(e)} for name, e in shares.items()]).round(1)
print("percent of the summed gradient from more than 8 positions away (95 % interval over draws):")
print(table.to_string(index=False))
print(f"an even spread would be {100 * far.double().mean():.0f} %")
saved = run.save(table, "receptive_field.csv", source="ours in miniature: networks at random")

# %% [markdown]
# **What to see** (log scale; each map is divided by its largest value). In the UNet the centre depends on the whole map even *without* attention,
# for two reasons, printed above: 3 x 3 windows on a map halved twice reach far (89 x 89 positions), and each group norm takes mean and deviation
# over the *whole* map, so that a change anywhere moves everything a little. The UViT shows 3 x 3 bright positions, the window of its last convolution,
# and a flat rest: untrained attention is nearly a plain mean, the same from near and far.
#
# A surprise: untrained, the UNet draws the larger share from far away; attention adds nothing to it here. (Its share is even a little lower, with
# overlapping intervals.) So "convolution is local, attention global" does not hold for these two as they start. What training makes of it
# is open here.

# %% [markdown]
# ## 7. With one step, time folds away
#
# The paper samples with $s = 1$: $U$ is asked at $t = 999$ and at no other step. Then $f_t$ is always the same vector, and so is each block's shift. A
# constant added after a convolution is a *bias*, and the convolution has one already:
#
# $$\mathrm{conv}_1(a) + b_1 + W f_{999} + b = \mathrm{conv}_1(a) + b_1', \qquad b_1' = b_1 + W f_{999} + b$$
#
# $W$, $b$ and the little network that makes $f_t$ can be thrown away after training. The output is the same; nothing is approximated. (UViT has little
# to fold: its time is one token, without weights of its own, and attention mixes it with the others.)
#
# Then we count. On the device `meta` a network has shapes but no memory, so that a billion parameters cost nothing.

# %% tags=["nbval-check-output"]
from copy import deepcopy

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
folded = deepcopy(small)
with torch.no_grad():
    f_999 = small.time(sinusoidal(torch.tensor([999]), small.inner, like=x))
    for layer in folded.modules():
        if isinstance(layer, ResidualBlock):
            layer.conv_1.bias += f_999[0] @ layer.shift.weight.T + layer.shift.bias
folded.time = None
x, f_1, f_2 = torch.randn(3, 2, 2, 16, 16)
before, after = small(x, torch.tensor([999]), f_1, f_2), small.folded(999)(x, None, f_1, f_2)
torch.testing.assert_close(folded(x, None, f_1, f_2), after)
torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
other = (small(x, torch.tensor([0]), f_1, f_2) - after).abs().max()
assert other > 1e-3  # at another time it is another function
print("the same output at t = 999 to 1e-5; at t = 0 another one")

# %% tags=["nbval-check-output"]
RELEASED = {"UNet": 951_811_200, "UViT, n = 1": 64_067_088, "UViT, n = 8": 326_323_488}


def count(net):
    """Returns the number of parameters."""
    return sum(p.numel() for p in net.parameters())


print(f"small UNet: {count(small):,} parameters, folded {count(small.folded(999)):,}")
with torch.device("meta"):
    for form in ("paper", "released"):
        full = UNet(768, n_blocks=9, form=form)
        sizes = {"UNet": count(full), "UNet, folded": count(full.folded(999))}
        sizes |= {f"UViT, n = {n}": count(UViT(768, n_blocks=n, form=form)) for n in (1, 8)}
        print(f"C = 768, {form} form:", "  ".join(f"{k} {v / 1e6:.1f} M" for k, v in sizes.items()))
assert {k: sizes[k] for k in RELEASED} == RELEASED
print("released form = the released code's own count, to the last parameter")

# %% [markdown]
# | parameters, C = 768 | paper's form | released form | released code's own list of tensors |
# |---|---|---|---|
# | UNet, n = 9 | 781.2 M | 951.8 M | 951,811,200 |
# | the same, folded | 759.3 M | 926.1 M | - |
# | UViT, n = 1 | 64.1 M | 64.1 M | 64,067,088 |
# | UViT, n = 8 (the paper's best) | 326.3 M | 326.3 M | 326,323,488 |
#
# The released UNet is a fifth larger than the one drawn. (Its training code feeds a fourth map, which makes it 957.1 M and does not fit its own
# test code; 3C channels is what fits.) Folding saves 21.8 M (paper's form) or 25.7 M (released), under 3 %: real, exact and small.

# %% [markdown]
# ## 8. The discriminator, and a norm that blinds it
#
# CGAN's $D$ takes $x$ (`fused` or $fused^*$), $f_1$ and $f_2$, concatenated, and answers with the probability that $x$ is real. The
# supplement's Fig. 1 has four convolutions of stride 2; each is followed by a **batch norm** (for each channel: subtract the mean over batch *and*
# positions, divide by the standard deviation, then scale and add a learned bias), the first three by a ReLU. For 31 x 31 maps that ends
# at 1 x 1. The same stack without padding takes 16 x 16 to nothing, so ours pads even sizes.

# %% alt="The discriminator as a chain of boxes with its shapes, for 31 by 31 and for 16 by 16 maps: four convolutions down to one by one, then a sigmoid"
from gmmt.networks.discriminator import Discriminator

fig, axes = plt.subplots(2, 1, figsize=(7, 1.9))
for ax, (channels, size) in zip(axes, ((256, 31), (768, 16)), strict=True):
    h = torch.zeros(2, 3 * channels, size, size)
    chain = {"0": (0.3, 1, f"{3 * channels} x {size} x {size}\n$x, f_1, f_2$", gray)}
    for i, conv in enumerate(
        m for m in Discriminator(channels, size=size).layers if hasattr(m, "stride")
    ):
        h = conv(h)
        chain[str(i + 1)] = (2.4 + 1.8 * i, 1, " x ".join(map(str, h.shape[1:])), C["CGAN"])
    chain["5"] = (9.2, 1, "sigmoid", gray)
    title = f"D for {size} x {size}, C = {channels}, padding {1 - size % 2}"
    draw(ax, chain, "0>1 1>2 2>3 3>4 4>5", title)
    ax.set_ylim(0.3, 1.7)
plt.show()

# %% [markdown]
# Now the last batch norm. It sits on a 1 x 1 map with one channel, so "the mean over batch and positions" is the mean of the batch's answers:
#
# $$a_i' = \gamma\, \frac{a_i - \frac1B \sum_j a_j}{\sigma} + b \quad\Longrightarrow\quad \frac1B \sum_i a_i' = b$$
#
# In training $D$ sees one batch that is all real and one that is all fake. **Both get the same mean answer before the sigmoid, $b$, whatever $D$ has
# learned.** And what $G$ does cannot move that mean: its gradient is zero.
#
# Does it matter? After the check, an easy case: "real" maps are the (scaled) sum of both conditions, "fake" ones are noise with the same mean and
# variance. $D$ is trained to tell them apart, with that norm and without.

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
for last_norm in (True, False):
    D = Discriminator(channels=2, size=16, widths=(8, 8, 8), last_norm=last_norm)
    if last_norm:
        torch.nn.init.constant_(D.layers[-1].bias, 0.7)
    for scale in (1, 5):
        x, f_1, f_2 = scale * torch.randn(3, 6, 2, 16, 16)
        x.requires_grad_()
        logits = D.layers(torch.cat([x, f_1, f_2], dim=1))
        logits.mean().backward()
        if last_norm:
            torch.testing.assert_close(logits.mean(), D.layers[-1].bias[0])
            assert x.grad.abs().max() < 1e-12
        else:
            assert x.grad.abs().max() > 1e-6
    moved = "0: always the norm's bias" if last_norm else "not 0"
    print(f"last norm {last_norm!s:5}: gradient of the mean logit with respect to x is {moved}")


# %%
torch.set_default_dtype(torch.float32)


def train_discriminator(last_norm, n_steps=150):
    """Returns D's mean answer on real and on fake batches at each step."""
    torch.manual_seed(seed)
    D = Discriminator(channels=2, size=16, widths=(32, 32, 16), last_norm=last_norm)
    optimizer, answers = torch.optim.AdamW(D.parameters(), lr=2e-3), []
    for _ in range(n_steps):
        real, fake, f_1, f_2 = torch.randn(4, 32, 2, 16, 16)
        real = (f_1 + f_2) / 2**0.5
        on_real, on_fake = D(real, f_1, f_2), D(fake, f_1, f_2)
        loss = (1 - on_real).square().mean() + on_fake.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        answers.append((on_real.mean().item(), on_fake.mean().item()))
    return answers


# %% alt="D's mean answer on real and fake batches over 150 training steps, with the last norm and without"
fig, axes = plt.subplots(1, 2, sharey=True)
answers = {last_norm: train_discriminator(last_norm) for last_norm in (True, False)}
for ax, last_norm in zip(axes, answers, strict=True):
    on_real, on_fake = zip(*answers[last_norm], strict=True)
    title = f"last norm {'as in Fig. 1' if last_norm else 'left out (ours)'}"
    plot.lines(ax, range(150), {"real": on_real, "fake": on_fake}, "training step", "", title)
    ax.set_ylim(-0.02, 1.02)
axes[0].set_ylabel("mean answer of D")
plt.show()

# %%
final = {k: torch.tensor(v[-10:]).mean(0).tolist() for k, v in answers.items()}
print("mean of the last 10 steps:")
for last_norm, (on_real, on_fake) in final.items():
    print(f"last norm {last_norm!s:5}: D says {on_real:.2f} on real, {on_fake:.2f} on fake")
gap = {k: a - b for k, (a, b) in final.items()}
run.headline(
    f"UNet {sizes['UNet'] / 1e6:.0f} M, folded {sizes['UNet, folded'] / 1e6:.0f} M; "
    f"D tells real from fake by {gap[True]:.2f} with its last norm, {gap[False]:.2f} without"
)

# %% [markdown]
# **What to see.** Without that norm $D$ learns to tell real from fake, and answers near 1 and 0. With it, both curves stay together near 0.5
# (drifting with $b$), as the equation says. (It fixes the mean *before* the sigmoid; only the spread of answers within
# a batch is left to work with.) Hence ours leaves it out; `last_norm=True` brings it back.
#
# ## Side by side
#
# | | paper, supplement | released code | ours |
# |---|---|---|---|
# | blocks of UNet | n, 1, n | 9, 2, 12 | both (`form`) |
# | added $f_{rgb}$, last norm | not mentioned | UNet and UViT | `form="released"` |
# | $U$ is told | step $t$ | noise level in 0..1 | step (`time`) |
# | 31 x 31 | Siamese tracker | breaks (UNet) | works, any $\ge 4$ |
# | D's last norm | batch norm on 1 x 1 | no D released | left out (`last_norm`) |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# The UNet takes the conditions by concatenation. How many parameters does a *third* modality cost in the full-size UNet ($C = 768$, one more
# condition map)? Think of which layers notice; then compute the number.

# %%
answer = None  # number of additional parameters

# %% tags=["solution"]
answer = (
    768 * 768 * 3 * 3
)  # the first 3 x 3 convolution reads C more channels; nothing else changes

# %%
assert answer is not None, "no answer yet"
with torch.device("meta"):
    two, three = (count(UNet(768, conditions=m)) for m in (2, 3))
assert answer == three - two, "only the inlet convolution reads the conditions"

# %% [markdown]
# ## What follows, and what this does not show
#
# - Nothing here was trained (but a toy discriminator). Which kind *tracks* better is not shown; what a trained network looks at may differ from
#   section 6.
# - Speed is not measured here. Folding saves memory; of the arithmetic it saves next to nothing.
# - That the batch norm explains CGAN's weak results in the paper is possible, and not shown: how the authors trained $D$ is not released.
#
# **Next:** [05, RAW, CGAN or DM: what does each learn?](05_three_losses.ipynb)
#
# **References.** Ho, Jain, Abbeel 2020 (UNet for diffusion). Bao et al. 2023 (UViT). Vaswani et al. 2017 (attention, sinusoids). Mao et al. 2017
# (LSGAN). Ioffe, Szegedy 2015 (batch norm). Wu, He 2018 (group norm). Tang et al. 2024 (GMMT).
