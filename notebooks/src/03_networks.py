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
# Paper: "Generative-Based Fusion Mechanism" (Fig. 2); supplement, Fig. 1 (the discriminator), Fig. 2d and Sec. F (U). Runs about 20 s under
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

run = notebook.start("03_networks", profile=profile, seed=seed, draws=draws)

# %% [markdown]
# ## The idea
#
# A tracker sees through two cameras; each gives a **feature map**, a grid of vectors. GMMT asks a network $U$ to make one combined map out of
# both. One design of $U$ serves the diffusion model (DM) and the conditional generative adversarial network (CGAN), each trained on its own.
#
# | paper | code | shape | meaning |
# |---|---|---|---|
# | $fused$ | `fused` | (B, C, H, W) | the combined map of the tracker's own, older fusion: what $U$ should generate |
# | $fused^*$, $\hat x_0$ | `out` | (B, C, H, W) | the generated one; $\hat x_0$ is DM's guess at `fused`, seeing $x_t$ |
# | $x_t$, $z$ | `x` | (B, C, H, W) | what $U$ starts from: `fused` mixed with noise (DM), pure noise $z$ (CGAN) |
# | $t$ | `t` | (B,) | which step of the noise schedule, 0 to 999; 999 is as good as pure noise |
# | $f_t$ | `time` | (B, L) | the same, as a vector of L numbers |
# | $f_{rgb}, f_{tir}$ | `f_1`, `f_2` | (B, C, H, W) | one camera's features each, the *conditions* |
# | $U(x_t, f_1, f_2, f_t)$ | `net(x, t, f_1, f_2)` | (B, C, H, W) | what $U$ makes of them |
# | $n$ | `n_blocks` | | blocks on each side of the U |
# | $D$ | `Discriminator` | (B,) | CGAN: probability that a map is real (`fused`), not made |
#
# B maps in a batch, C channels, H x W positions. The paper's two transformer trackers have C = 768 on 16 x 16 maps, its Siamese tracker (a
# convolutional one) C = 256 on 31 x 31.


# %% alt="Two data flows. Diffusion: fused and noise are mixed to x_t, which goes with f_1, f_2 and t into U; out comes x_0_hat, whose squared difference from the same fused is taken. CGAN: noise z, f_1, f_2 and the constant t = 0 go into U, out comes fused*. The discriminator D scores fused* with f_1 and f_2, aim 0, and apart from that fused with f_1 and f_2, aim 1"
def draw(ax, boxes, arrows, title):
    """Draws boxes {name: (x, y, text)}, coloured by name, and arrows between them."""
    drawn = {}
    for name, (x, y, text) in boxes.items():
        c = plot.COLORS.get(ink.get(name), "#777777")
        drawn[name] = ax.text(x, y, text, ha="center", va="center", fontsize=8)
        drawn[name].set_bbox({"boxstyle": "round", "fc": c + "22", "ec": c})
    for a, b in (pair.split(">") for pair in arrows.split()):
        ends = {"patchA": drawn[a].get_bbox_patch(), "patchB": drawn[b].get_bbox_patch()}
        ax.annotate("", boxes[b][:2], boxes[a][:2], arrowprops={"arrowstyle": "-|>"} | ends)
    ax.set(xlim=(-0.4, 9.6), ylim=(-0.4, 2.8), title=title, xticks=[], yticks=[], frame_on=False)


ink = {"1": "RGB", "2": "TIR", "f": "fused", "g": "fused", "u": "truth"}  # names in plot.COLORS
both = {"1": (3.2, 1, "$f_1$"), "2": (3.2, 0, "$f_2$"), "u": (4.9, 1, "$U$")}
dm = {"f": (0, 2, "$fused$"), "n": (0, 1, "noise"), "m": (1.6, 2, "mix by\nEq. (2)")}
dm |= {"x": (3.2, 2, "$x_t$"), "t": (4.9, 2.3, "$t$"), "o": (6.4, 1, r"$\hat x_0$")}
dm |= {"g": (8.3, 2.3, "the same $fused$"), "l": (8.3, 1, "squared\ndifference")}
gan = {"x": (3.2, 2, "noise $z$"), "t": (4.9, 2.3, "$t = 0$"), "o": (6.4, 1, "$fused^*$")}
gan |= {"f": (6.4, 2.5, "$fused$"), "k": (6.4, 1.75, "$f_1, f_2$"), "d": (7.7, 1, "$D$")}
gan |= {"e": (7.7, 2.5, "$D$"), "0": (9, 1, "D's aim: 0"), "9": (9, 2.5, "D's aim: 1")}
fig, axes = plt.subplots(2, 1, figsize=(7, 4.2))
draw(axes[0], both | dm, "f>m n>m m>x x>u t>u 1>u 2>u u>o o>l g>l", "DM in training")
draw(axes[1], both | gan, "x>u t>u 1>u 2>u u>o o>d k>d d>0 f>e k>e e>9", "CGAN in training")
plt.show()

# %% [markdown]
# **What to see.** In both, three maps are laid on top of each other and go into $U$: something noisy, $f_1$ and $f_2$. That is all that
# "conditional" means here: *concatenation* of channels, so the first layer reads 3C of them. DM tells $U$ the time and compares the output with
# `fused` (drawn with $\hat x_0$ as output, as in the released code; the paper's text predicts the noise). CGAN has no time: its $U$,
# the *generator*, always gets the constant $t = 0$. A second network, the *discriminator* $D$, scores one map at a time, given $f_1, f_2$. $D$ is
# trained towards 1 on `fused` and 0 on $fused^*$, $U$ towards a 1 on $fused^*$. At test, $x_t$ starts as pure noise, and $D$ is not used.

# %% [markdown]
# ## 1. Being told the time
#
# A number like $t = 999$ is a poor input: it is large, and neighbours look alike. So it becomes a vector of sines and cosines with
# different wavelengths (Vaswani et al., 2017):
#
# $$e_t = \big[\sin(\omega_0 t), \dots, \sin(\omega_{L/2-1} t),\ \cos(\omega_0 t), \dots, \cos(\omega_{L/2-1} t)\big],
# \qquad \omega_j = 10000^{-2j/L}$$
#
# with L numbers in all (768 in the full UNet, 1200 in the full UViT). Like the hands of a clock: fast ones tell neighbours apart, slow ones tell early from late. UNet has the sines first and passes
# $e_t$ through a small trained network of two linear layers (**SiLU** is explained in section 2):
#
# $$f_t = \mathrm{linear}_2(\mathrm{silu}(\mathrm{linear}_1(e_t)))$$
#
# UViT has the cosines first, and no such network: $f_t = e_t$.


# %% tags=["nbval-check-output"]
import math

from gmmt.networks.embedding import sinusoidal


def naive_time(t, dim, cosine_first=False):
    """Returns e_t of one time as a list of `dim` numbers."""
    angles = [t * 10_000 ** (-2 * j / dim) for j in range(dim // 2)]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    return cosines + sines if cosine_first else sines + cosines


for t in (0, 1, 500, 999):
    for order in (False, True):
        ours = sinusoidal(torch.tensor([t]), 16, torch.float64, cosine_first=order)[0]
        torch.testing.assert_close(
            torch.tensor(naive_time(t, 16, order)).double(), ours, atol=1e-6, rtol=1e-5
        )
    first = [round(v, 4) for v in naive_time(t, 16)[:3]]
    print(f"t = {t:3d}: UNet's first three of 16 numbers {first}")

# %% alt="Two heat maps of the 64 numbers of e_t, one above the other. Fed with steps 0 to 999 the rows wave with many wavelengths; fed with a noise level between 0 and 1 most rows have one colour throughout"
fig, axes = plt.subplots(2, 1, figsize=(7, 4.6), sharey=True)
fed = {"step t": torch.arange(1000.0), "noise level": torch.linspace(0, 1, 400)}
for ax, (what, values) in zip(axes, fed.items(), strict=True):
    features = sinusoidal(values, 64).T
    ends = (0, values[-1].item(), 64, 0)
    image = ax.imshow(features, aspect="auto", extent=ends, cmap="coolwarm", clim=(-1, 1))
    image.set_interpolation("antialiased")
    ax.set(xlabel=what, ylabel="number in $e_t$", title=f"fed with the {what}")
    ax.grid(False)
fig.colorbar(image, ax=axes, label="its value")
plt.show()

# %% [markdown]
# **What to see.** Top, the paper's way, a step: upper half sines, lower half cosines, each from fast to slow. Bottom, the released code's way: it
# feeds a noise *level* between 0 and 1 into the same formula. Even the fastest wave (length $2\pi$) does not complete a turn, and most rows
# hardly change: the time makes little difference to $e_t$. Ours feeds the step (`time="step"` of the diffusion model); `time="level"` is there
# to compare.

# %% [markdown]
# ## 2. A residual block, and how time gets in
#
# The brick of UNet. **Norm** (a *group norm*): within each of a few groups of channels, take mean and standard deviation over channels and *all*
# positions; subtract the one, divide by the other; then scale each channel and add to it, by learned numbers. **SiLU**: each number times its own
# sigmoid, a smooth version of "keep what is positive". **Convolution**: each position becomes a weighted sum of its 3 x 3 neighbourhood.
#
# From a map $h$ the block makes $h'$ and then its result $h''$:
#
# $$h' = \mathrm{conv}_1(\mathrm{silu}(\mathrm{norm}_1(h))) + A f_t + b, \qquad
# h'' = \mathrm{conv}_2(\mathrm{silu}(\mathrm{norm}_2(h'))) + h$$
#
# $A$ and $b$ are learned: time **shifts each channel** by one number, the same at all positions. The "$+\,h$" at the end makes the block *residual*:
# it learns a change, not the whole. (If the number of channels changes, this $h$ passes a 1 x 1 convolution, to match.)

# %% tags=["nbval-check-output"]
import torch.nn.functional as F

from gmmt.networks.unet import ResidualBlock, SelfAttention, UNet


def naive_block(block, h, time):
    """Computes a ResidualBlock without attention from its weights."""
    conv_1, conv_2, match = block.conv_1, block.conv_2, block.match
    normed = F.group_norm(h, block.norm_1.num_groups, block.norm_1.weight, block.norm_1.bias)
    h_1 = F.conv2d(F.silu(normed), conv_1.weight, conv_1.bias, padding=1)
    shift = time @ block.shift.weight.T + block.shift.bias
    h_1 = h_1 + shift[:, :, None, None]  # one number a channel
    normed = F.group_norm(h_1, block.norm_2.num_groups, block.norm_2.weight, block.norm_2.bias)
    h_2 = F.conv2d(F.silu(normed), conv_2.weight, conv_2.bias, padding=1)
    return h_2 + F.conv2d(h, match.weight, match.bias)


torch.manual_seed(0)
torch.set_default_dtype(torch.float64)  # the checks below then agree to many digits
block, h, time = ResidualBlock(4, 8, 16, 2), torch.randn(3, 4, 7, 7), torch.randn(3, 16)
torch.testing.assert_close(naive_block(block, h, time), block(h, time))
print(f"residual block: {tuple(h.shape)} -> {tuple(block(h, time).shape)}, naive = gmmt")

# %% [markdown]
# ## 3. Attention: every position asks all others
#
# A 3 x 3 convolution sees its neighbours only. In **attention** each position $i$ makes three vectors from its own: a query $q_i$ (what
# it looks for), a key $k_i$ (what it offers to be found by), a value $v_i$ (what it passes on). With all of them as rows of $Q, K, V$:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\Big(\frac{Q K^\top}{\sqrt d}\Big)\, V$$
#
# Softmax makes each row positive with sum 1: a weighted mean of all positions' values. Dividing by $\sqrt d$, with $d$ the number of entries of a
# query, keeps the weights from collapsing onto one position. In UNet, attention follows some residual blocks: $h + \mathrm{linear}(\mathrm{attention})$,
# its input normed.
#
# UViT cuts the vectors into several *heads*, does this in each, and joins them by a linear layer. Its **transformer block** has two residual halves, the
# second with a small two-layer network (MLP) at each position:
#
# $$h' = h + \mathrm{heads}(\mathrm{norm}_1(h)), \qquad h'' = h' + \mathrm{MLP}(\mathrm{norm}_2(h'))$$
#
# Here norm is a *layer norm*: for each position alone, over all its channels.


# %%
def naive_attention(q, k, v):
    """Mixes the values of all positions: q, k, v [..., positions, d]."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return weights @ v


def naive_transformer(block, h):
    """Computes a TransformerBlock, head after head."""
    d = h.shape[-1] // block.heads
    q, k, v = block.qkv(block.norm_1(h)).chunk(3, dim=-1)
    heads = [slice(i * d, (i + 1) * d) for i in range(block.heads)]
    mixed = [naive_attention(q[..., part], k[..., part], v[..., part]) for part in heads]
    h = h + block.out(torch.cat(mixed, dim=-1))
    return h + block.mlp(block.norm_2(h))


# %% tags=["nbval-check-output"]
from gmmt.networks.uvit import TransformerBlock, UViT

torch.manual_seed(0)
layer, h = SelfAttention(8, groups=2), torch.randn(3, 8, 5, 6)
rows = layer.qkv(layer.norm(h)).flatten(2).transpose(1, 2)  # [B, positions, 3 x channels]
mixed = naive_attention(*rows.chunk(3, dim=2)).transpose(1, 2).reshape(h.shape)
torch.testing.assert_close(h + layer.out(mixed), layer(h))
block, tokens = TransformerBlock(12, heads=3), torch.randn(3, 30, 12)
torch.testing.assert_close(naive_transformer(block, tokens), block(tokens))
print("UNet's attention, one head of 8 channels, 5 x 6 positions: naive = gmmt")
print("UViT's block, 3 heads of 4 channels, 30 tokens:            naive = gmmt")

# %% [markdown]
# ## 4. UNet: down, middle, up
#
# On the way **down** the map is halved twice, by convolutions that give a result at every second position only (*stride* 2). A 3 x 3 window then covers
# more of the scene. On the way **up** the map is enlarged again. What was fine is lost on the way, so each block's result on the way down is also handed
# straight across: a **skip connection**, joined by concatenation, last one first. At the end stands an **outlet**: norm, SiLU and a convolution back to
# C channels.
#
# Halving 31 gives 16, halving 16 gives 8; doubling 8 gives 16, but doubling 16 gives 32, not 31: the released code, with fixed sizes, breaks on the
# Siamese tracker's 31 x 31. Ours enlarges *to the size of the skip connection*, so any $H, W \ge 4$ will do.


# %%
def naive_unet(net, x, t, f_1, f_2):
    """The paper's UNet with one block a level (a: full size, b: half, c: quarter)."""
    time = net.time(sinusoidal(t, net.inner, x.dtype))
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
# The three resolutions are called **levels**. The supplement draws $n$ blocks down, 1 in the middle, $n$ up (Fig. 2d). Its best is $n = 9$: 3 a level on
# each side, and each block up gets the skip of its counterpart down. **Attention** follows the blocks of the middle level, on both sides, and the first
# block in the middle.
#
# The released code has 4 blocks a level on the way up, 12 in all. They need 12 skips: those of the 9 blocks down, of the first layer and of the two
# halvings. It has two blocks in the middle. At the end its UNet **adds $f_{rgb}$** to the outlet's result; a second outlet and a group norm
# follow. The paper mentions none of this. `form=` chooses.

# %% [markdown]
# ## 5. UViT: every position is a token
#
# The second kind (Bao et al., 2023) has no levels. Each position's 3C numbers pass one linear layer and become a **token**, a vector; the time
# is *one more token*. Attention does not know where a token is from, so each gets a learned **position vector** added, learned for 16 x 16
# and interpolated for other sizes. Then come $n$ transformer blocks, one in the middle, and $n$ more. The last block first merges the first one's result,
# the last but one the second's, and so on (concatenate, then a linear layer back to the width): the U is all skips.
#
# At the end a layer norm and a linear layer make C numbers of each token; the time token is dropped, the rest form a map, smoothed by a
# convolution. The released UViT ends in a batch norm (section 8) and then adds $f_{rgb}$.


# %% tags=["nbval-check-output"]
def naive_uvit(net, x, t, f_1, f_2):
    """The paper's UViT with one block a side, written out, for H = W = net.size."""
    tokens = net.inlet(torch.cat([x, f_1, f_2], dim=1).flatten(2).transpose(1, 2))
    time = sinusoidal(t, net.dim, x.dtype, cosine_first=True)
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
# Change the noisy map $x_t$ at one position a little: how much does the output *in the centre* change? That is the size of the gradient, and automatic
# differentiation gives it for all positions at once. We take it for $x_t$ only, not for $f_1, f_2$, and for one channel of the output.
#
# All networks are small (UNet: $n = 3$, 16 channels at full size; UViT: $n = 3$, tokens of 24 numbers) and have random weights, no training. In the UNet,
# attention and norms are switched off or left. All is repeated for several draws of weights and inputs; each map is divided by its sum.


# %%
def seen_by_centre(make, size, n_draws):
    """Returns |d out[centre] / d x| for each draw [n_draws, size, size], each with sum 1."""
    maps = []
    for i in range(n_draws):
        torch.manual_seed(seed + i)
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
networks = {
    "UNet, convolutions only": (112, lambda: unet_without(SelfAttention, torch.nn.GroupNorm)),
    "UNet, with norms": (112, lambda: unet_without(SelfAttention)),
    "UNet, no attention": (32, lambda: unet_without(SelfAttention)),
    "UNet, whole": (32, unet_without),
    "UViT": (32, lambda: UViT(channels=2, n_blocks=3, dim=24, heads=3, size=32)),
}
seen = {name: seen_by_centre(make, size, draws) for name, (size, make) in networks.items()}
for name, (size, _) in networks.items():
    reached = (seen[name] > 0).all(0)  # in every draw
    high, wide = reached.any(1).sum().item(), reached.any(0).sum().item()
    print(f"{name:23s}: centre of {size:3d} x {size:3d} depends on {high:3d} x {wide:3d} positions")

# %% alt="Four heat maps on a log scale of what the output's centre depends on. UNet with convolutions only: a small bright spot in a black square of 89 by 89, grey outside. With norms: a wide bright spot on a flat ground that fills the map. On 32 by 32, the whole UNet: bright centre fading to the edges. UViT: three by three bright positions on a flat ground"
shown = {name: maps.mean(0) for name, maps in seen.items() if name != "UNet, no attention"}
maps = [(m / m.max()).where(m > 0, torch.nan).log10().numpy() for m in shown.values()]
titles = [name.replace(", ", ",\n") for name in shown]
title = "What the centre of the output depends on (weights at random)"
figure = plot.image_row(maps, titles, title, limits=(-6, 0))
for ax in figure.axes:
    half = ax.images[0].get_size()[0] // 2
    ax.images[0].set_extent((-half - 0.5, half - 0.5, half - 0.5, -half - 0.5))
    ax.set(xticks=[-half, 0, half - 1], yticks=[-half, 0, half - 1], facecolor="#bbbbbb")
figure.supxlabel("position, counted from the centre (grey: gradient exactly 0)", fontsize=8)
bar = figure.colorbar(figure.axes[-1].images[0], ax=figure.axes, shrink=0.8)
bar.set_label("|gradient|, largest = 1", fontsize=8)
bar.set_ticks([-6, -4, -2, 0], labels=["$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "1"])
plt.show()

# %%
import pandas as pd

from gmmt.results import mean_interval

away = (torch.arange(32) - 16).abs()
far = torch.maximum(away[:, None], away) > 8
share = {name: 100 * seen[name][:, far].sum(1).numpy() for name in list(seen)[2:]}
share["whole minus no attention"] = share["UNet, whole"] - share["UNet, no attention"]
rows = [{"network": name, **vars(mean_interval(values))} for name, values in share.items()]
table = pd.DataFrame(rows).round(1)
print("32 x 32: percent of the summed gradient from more than 8 positions away")
print("(95 % interval over draws; the difference is paired: same weights, same inputs)")
print(table.to_string(index=False))
print(f"an even spread would be {100 * far.double().mean():.0f} %")
saved = run.save(table, "receptive_field.csv", source="ours in miniature: networks at random")

# %% [markdown]
# **What to see** (log scale; mean over draws, largest = 1). *Left two, 112 x 112.* Convolutions alone reach 89 x 89 positions (for $n = 3$).
# Outside, the gradient is exactly 0 (grey); long before, it is below $10^{-6}$ (black). With norms it is 0 nowhere: a group norm takes mean
# and deviation over *all* positions, so a change anywhere moves everything. *Right two, 32 x 32.* The UNet fades outwards (without attention
# it looks the same; not drawn). The UViT shows 3 x 3 bright positions, the window of its last convolution, and a flat rest, as if attention
# took a plain mean.
#
# Both reach every position, but UNet's share from far away is larger (40 % against 23 %). Attention does not raise it: with it the share is 2.4 points
# lower (0.6 to 4.1). These are sizes of gradients in small networks at random weights; training is not tested here.

# %% [markdown]
# ## 7. With one step, time folds away
#
# The paper samples with one step ($s = 1$): DM's $U$ is asked at $t = 999$ and at no other step. Then $f_t$ is always the same vector $f_{999}$, and so is
# each block's shift. A constant added after a convolution is a *bias*, and the convolution has one already, $b_1$:
#
# $$\mathrm{conv}_1(\cdot) + A f_{999} + b = \mathrm{conv}_1'(\cdot), \qquad b_1' = b_1 + A f_{999} + b$$
#
# Here $\mathrm{conv}_1'$ has the weights of $\mathrm{conv}_1$ and the bias $b_1'$. $A$, $b$ and the network that makes $f_t$ of $e_t$ can be thrown away
# after training: this is exact, up to rounding. (UViT has little to fold: its time is one token, without weights of its own, and attention mixes it
# with the others.)
#
# Then we count. On the device `meta` a network has shapes but no memory, so that a billion parameters cost nothing.

# %% tags=["nbval-check-output"]
from copy import deepcopy

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
folded = deepcopy(small)
with torch.no_grad():
    f_999 = small.time(sinusoidal(torch.tensor([999]), small.inner, x.dtype))
    for layer in folded.modules():
        if isinstance(layer, ResidualBlock):
            layer.conv_1.bias += f_999[0] @ layer.shift.weight.T + layer.shift.bias
folded.time = None
x, f_1, f_2 = torch.randn(3, 2, 2, 16, 16)
before, after = small(x, torch.tensor([999]), f_1, f_2), small.folded(999)(x, None, f_1, f_2)
torch.testing.assert_close(folded(x, None, f_1, f_2), after)
torch.testing.assert_close(before, after, atol=1e-12, rtol=0)
other = (small(x, torch.tensor([0]), f_1, f_2) - after).abs().max()
assert other > 1e-3  # at another time it is another function
print(f"in {before.dtype}: the same output at t = 999 to 1e-12; at t = 0 another one")

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
        counts = "; ".join(f"{k}: {v / 1e6:.2f} M" for k, v in sizes.items())
        print(f"C = 768, {form} form: {counts}")
        less = sizes["UNet"] - sizes["UNet, folded"]
        print(f"    folding saves {less / 1e6:.2f} M, {100 * less / sizes['UNet']:.1f} %")
assert {k: sizes[k] for k in RELEASED} == RELEASED
print("released form = the released code's own count, to the last parameter")

# %% [markdown]
# | parameters, C = 768 | paper's form | released form | released code's own list of tensors |
# |---|---|---|---|
# | UNet, n = 9 | 781.15 M | 951.81 M | 951,811,200 |
# | the same, folded | 759.30 M | 926.12 M | - |
# | UViT, n = 1 | 64.07 M | 64.07 M | 64,067,088 |
# | UViT, n = 8 (the paper's best) | 326.32 M | 326.32 M | 326,323,488 |
#
# The released UNet is larger than the one drawn by a fifth. The two forms of UViT differ by the last batch norm only, two numbers for each of 768
# channels, too few to show here. Folding saves 21.85 M (paper's form) or 25.69 M (released), under 3 %: exact, and small.

# %% [markdown]
# ## 8. The discriminator, and what its last norm takes away
#
# CGAN's $D$ takes a map (`fused` or $fused^*$), $f_1$ and $f_2$, concatenated, and answers with the probability that the map is real. The
# supplement's Fig. 1 has four convolutions of stride 2; each is followed by a **batch norm** (for each channel: subtract the mean over batch *and*
# positions, divide by the standard deviation, then scale by a learned $\gamma$ and add a learned $\beta$), the first three also by a ReLU (keep what is
# positive). For 31 x 31 maps that ends at 1 x 1. The same stack without padding takes 16 x 16 to nothing, so ours pads even sizes. Drawn are both with
# the last norm.

# %% alt="The discriminator as a chain of boxes with its shapes, for 31 by 31 and for 16 by 16 maps: three times convolution, norm and ReLU, then convolution and norm, down to one by one, then a sigmoid"
from gmmt.networks.discriminator import Discriminator

names = {"Conv2d": "conv", "SyncBatchNorm2d": "batch norm", "ReLU": "ReLU"}
fig, axes = plt.subplots(2, 1, figsize=(7, 2.9))
for ax, (channels, size) in zip(axes, ((256, 31), (768, 16)), strict=True):
    h = torch.zeros(2, 3 * channels, size, size)
    chain = {"a": (0.3, 1, f"map, $f_1, f_2$\n{3 * channels} x {size} x {size}")}
    layers = Discriminator(channels, size=size, last_norm=True).layers
    for i, part in enumerate(layers[first : first + 3] for first in (0, 3, 6, 9)):
        h = part(h)
        text = [names[type(layer).__name__] for layer in part] + [" x ".join(map(str, h.shape[1:]))]
        chain["bcde"[i]] = (2.4 + 1.8 * i, 1, "\n".join(text))
    chain["z"] = (9.2, 1, "sigmoid")
    title = f"D for {size} x {size}, C = {channels}, padding {1 - size % 2}"
    draw(ax, chain, "a>b b>c c>d d>e e>z", title)
    ax.set_ylim(0.3, 1.7)
plt.show()

# %% [markdown]
# Now the last batch norm. It sits on a 1 x 1 map with one channel, so "over batch and positions" means over the batch's answers. In training mode it
# turns the answers $a$ of a batch, one number a map, into
#
# $$a' = \gamma\, \frac{a - \mathrm{mean}(a)}{\mathrm{std}(a)} + \beta \quad\Longrightarrow\quad \mathrm{mean}(a') = \beta, \quad \mathrm{std}(a') = |\gamma|$$
#
# In training $D$ sees one batch that is all real and another that is all fake. **Both get the same mean and standard deviation before the
# sigmoid, whatever $D$ has learned**; only the shape of the distribution can differ. And nothing that $U$ does can move that mean: its gradient is zero.
# (With running statistics, or both kinds in one batch, this would not hold.)
#
# After the check, an easy case: "real" maps are the scaled sum of both conditions, "fake" ones noise with the same mean and variance.
# $D$ is trained, with that norm and without, on LSGAN's loss: the squared difference of its answers from 1 (real) and 0 (fake).

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
for last_norm in (True, False):
    D = Discriminator(channels=2, size=16, widths=(8, 8, 8), last_norm=last_norm)
    if last_norm:
        torch.nn.init.constant_(D.layers[-1].bias, 0.7)  # beta
    for scale in (1, 5):  # two kinds of batch: the mean must not depend on what D is shown
        made, f_1, f_2 = scale * torch.randn(3, 6, 2, 16, 16)
        made.requires_grad_()
        answers = D.layers(torch.cat([made, f_1, f_2], dim=1))  # before the sigmoid
        answers.mean().backward()
        if last_norm:
            torch.testing.assert_close(answers.mean(), D.layers[-1].bias[0])
            gamma = D.layers[-1].weight[0]
            torch.testing.assert_close(answers.std(correction=0), gamma, rtol=1e-2, atol=0)
            assert made.grad.abs().max() < 1e-12
        else:
            assert made.grad.abs().max() > 1e-6
    moved = "0; mean and deviation are beta, gamma" if last_norm else "not 0"
    print(f"last norm {last_norm!s:5}: the mean answer's gradient at the map is {moved}")


# %%
torch.set_default_dtype(torch.float32)
n_steps = 400


def train_discriminator(last_norm):
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


# %% alt="D's mean answer on real and fake batches over 400 training steps. With the last norm both curves lie on each other just below 0.5; without it they part after some 60 steps, to nearly 1 and 0"
fig, axes = plt.subplots(1, 2, sharey=True)
answers = {last_norm: train_discriminator(last_norm) for last_norm in (True, False)}
for ax, last_norm in zip(axes, answers, strict=True):
    on_real, on_fake = zip(*answers[last_norm], strict=True)
    title = f"last norm {'as in Fig. 1' if last_norm else 'left out (ours)'}"
    ax.plot(on_real, label="real", lw=2.4)
    ax.plot(on_fake, "--", label="fake", lw=1.2)
    ax.set(ylim=(-0.02, 1.02), xlabel="training step", title=title)
axes[0].set_ylabel("mean answer of D")
axes[1].legend(loc="center right")
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
# **What to see** (one seed). Without that norm $D$'s mean answers part after some 60 steps and end near 1 and 0. With it they lie on each other, near
# 0.5, through all 400 steps. The equation fixes mean and deviation *before* the sigmoid and leaves the shape free, which could still part the means after
# it; in this run it did not. Longer training was not tested. Hence ours leaves the norm out; `last_norm=True` brings it back.
#
# ## Side by side
#
# | | paper, supplement | released code | ours |
# |---|---|---|---|
# | blocks of UNet (down, middle, up) | $n$, 1, $n$ | 9, 2, 12 | both (`form`) |
# | end of UNet | not mentioned | adds $f_{rgb}$, second outlet, group norm | both (`form`) |
# | end of UViT | not mentioned | batch norm, then adds $f_{rgb}$ | both (`form`) |
# | $U$ is told | step $t$ | noise level in 0..1 | step (`time`) |
# | UNet on 31 x 31 maps | used (Siamese tracker) | breaks | works, as any $H, W \ge 4$ |
# | $D$'s last norm | batch norm on 1 x 1 | no $D$ released | left out (`last_norm`) |

# %% [markdown] tags=["exercise"]
# ## Exercise
#
# The UNet takes the conditions by concatenation. How many parameters does a *third* modality cost in the full-size UNet ($C = 768$, one more
# condition map)? Its first layer is a 3 x 3 convolution with 768 channels as output. Think of which layers notice; then compute the number.

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
# **Next:** [04, how many steps does a sample need?](04_sampling.ipynb)
#
# **References.** Ho, Jain, Abbeel 2020 (UNet for diffusion). Bao et al. 2023 (UViT). Vaswani et al. 2017 (attention, sinusoids). Mao et al. 2017
# (LSGAN). Ioffe, Szegedy 2015 (batch norm). Wu, He 2018 (group norm). Tang et al. 2024 (GMMT).
