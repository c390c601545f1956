"""Reference files on GMMT: U and its blocks, the schedule, losses and sampling."""

import re
from unittest import mock

import closed_form as cf
import pytest
import torch
from reference_format import agree, call, close, described, inputs, load, only

from gmmt.fusion import DiffusionFusion
from gmmt.networks.embedding import sinusoidal
from gmmt.networks.unet import ResidualBlock, Resize, SelfAttention, UNet
from gmmt.networks.uvit import TransformerBlock, UViT
from gmmt.schedule import Schedule
from gmmt.trackers import official
from gmmt.trackers.released_names import UNET_BLOCK, UVIT_BLOCK, released_name, released_names

UNET_CTOR = {  # what the released constructor has where a file says nothing
    "in_channel": 768,
    "out_channel": 768,
    "inner_channel": 768,
    "norm_groups": 32,
    "channel_mults": (1, 1.5, 2),
    "res_blocks": 3,
    "image_size": 16,
    "attn_res": (7, 8),
}
UVIT_CTOR = {"in_chans": 768, "embed_dim": 1200, "num_heads": 12, "patch_size": 16}


def unet(ctor: dict, multiple: int) -> UNet:
    """Our UNet for the released constructor's arguments; it gets `multiple` maps."""
    only(ctor, *UNET_CTOR)
    ctor = UNET_CTOR | ctor
    assert ctor["in_channel"] == ctor["out_channel"]
    sizes = [ctor["image_size"] // 2**level for level in range(len(ctor["channel_mults"]))]
    return UNet(
        ctor["in_channel"],
        len(sizes) * ctor["res_blocks"],
        multiple - 1,
        ctor["inner_channel"],
        groups=ctor["norm_groups"],
        multipliers=tuple(ctor["channel_mults"]),
        attention_levels=tuple(i for i, size in enumerate(sizes) if size in ctor["attn_res"]),
        form="released",
    )


def uvit(ctor: dict) -> UViT:
    """Our UViT for the released constructor's arguments; it gets three maps."""
    only(ctor, "depth", *UVIT_CTOR)
    ctor = UVIT_CTOR | ctor
    return UViT(
        ctor["in_chans"],
        ctor["depth"] // 2,
        2,
        ctor["embed_dim"],
        ctor["num_heads"],
        ctor["patch_size"],
        form="released",
    )


def answer(network: torch.nn.Module, d: dict, dtype: torch.dtype) -> torch.Tensor:
    """U's output for the inputs that a file describes: all maps in one, then f_rgb."""
    maps, f_rgb = (x.to(dtype) for x in inputs(d["inputs"]))
    x, *conditions = maps.split(f_rgb.shape[1], dim=1)
    first, last, count = re.search(r"linspace\(([\d.]+),([\d.]+),(\d+)\)", d["inputs"]).groups()
    time = torch.linspace(float(first), float(last), int(count))
    with torch.no_grad():
        return network.to(dtype)(x, time, *conditions, residual=f_rgb)


# --- networks -------------------------------------------------------------------------------------


def unet_with(d: dict) -> UNet:
    network = unet(d["ctor"], d["in_mult"])
    return load(network, released_names(network), d["order"])


def unet_output(d: dict) -> None:
    only(d, "ctor", "in_mult", "params", "order", "inputs", "max_abs_f32_f64", *UNET_OUTPUTS)
    network = unet_with(d)
    assert sum(p.numel() for p in network.parameters()) == d["params"]
    agree(answer(network, d, torch.float32), d["output_float32"])


def unet_output_in_double_precision(d: dict) -> None:
    agree(answer(unet_with(d), d, torch.float64), d["output_float64"], 1e-6)


UNET_OUTPUTS = ("output_float32", "output_float64")


def uvit_output(d: dict) -> None:
    outputs = ("output_eval", "output_train_mode", "norm2_after_one_train_forward")
    only(d, "ctor", "params", "order", "inputs", *outputs)
    network = uvit(d["ctor"])
    load(network, released_names(network), d["order"])
    assert sum(p.numel() for p in network.parameters()) == d["params"]
    agree(answer(network, d, torch.float32), d["output_eval"])
    agree(answer(network.train(), d, torch.float32), d["output_train_mode"])
    only(d[outputs[2]], "norm2.running_mean", "norm2.running_var")
    agree(network.norm_out.running_mean, d[outputs[2]]["norm2.running_mean"])
    agree(network.norm_out.running_var, d[outputs[2]]["norm2.running_var"])


def network_keys(d: dict) -> None:
    """Names, shapes and their order in a full-size U, made without memory."""
    only(d, "meta", "keys")
    ctor = d["meta"]["ctor"]
    kind, numbers = call(ctor)
    options = described(ctor)
    with torch.device("meta"):
        if kind == "UNet":
            sizes = dict(zip(("in_channel", "out_channel", "inner_channel"), numbers, strict=False))
            network = unet(sizes | options, int(re.search(r"in_channel\*(\d)", ctor)[1]))
        else:
            network = uvit(options)
    assert sum(p.numel() for p in network.parameters()) == d["meta"]["params"]
    state = network.state_dict()
    theirs = {name: list(state[ours].shape) for ours, name in released_names(network).items()}
    assert theirs == d["keys"]
    assert list(theirs) == list(d["keys"])


def schedule_keys(d: dict) -> None:
    """The tables in a file of GMMT that the loader leaves out, as `Schedule` makes them anew."""
    only(d, "meta", "keys")
    T = call(d["meta"]["ctor"])[1][0]
    assert d["keys"] == {name: list(table.shape) for name, table in tables(T).items()}
    assert set(d["keys"]) == set(official.SCHEDULE.split())


def block(name: str) -> torch.nn.Module:
    """Our block for one that a file names."""
    kind, numbers = call(name)
    options = described(name)
    if kind == "UNet.ResnetBlocWithAttn":
        sizes = (*numbers, options["noise_level_emb_dim"], options["norm_groups"])
        return ResidualBlock(*sizes, attention=options["with_attn"])
    if kind == "UNet.SelfAttention":
        return SelfAttention(*numbers, options["norm_groups"])
    if kind == "UNet.Downsample":
        return Resize(*numbers, stride=2)
    if kind == "UNet.Upsample":
        return Resize(*numbers, stride=1)
    if kind == "UViT.Block":
        return TransformerBlock(*numbers, **options)
    raise AssertionError(f"no test knows the block {name}")


def blocks(d: dict) -> None:
    for name, case in d.items():
        only(case, "params", "order", "output", "inputs")
        given, options = inputs(case["inputs"]), described(name)
        if name.startswith("UNet.Block("):  # norm, SiLU and convolution: half of a residual block
            agree(half_a_block(name, case["order"], given[0]), case["output"])
            continue
        module = block(name)
        if name.startswith("UNet.ResnetBlocWithAttn("):
            given[1] = given[1].flatten(1)
        if name.startswith("UNet.Upsample("):
            given.append((options["new_res"], options["new_res"]))
        names = {key: key for key in module.state_dict()}
        if isinstance(module, ResidualBlock):
            names = {key: released_name(key, UNET_BLOCK) for key in names}
        elif isinstance(module, TransformerBlock):
            names = {key: released_name(key, UVIT_BLOCK) for key in names}
        load(module, names, case["order"])
        assert sum(p.numel() for p in module.parameters()) == case["params"]
        with torch.no_grad():
            agree(module(*given), case["output"])


def half_a_block(name: str, order: list, x: torch.Tensor) -> torch.Tensor:
    """What leaves the first convolution of a residual block."""
    module = ResidualBlock(*call(name)[1], 4, described(name)["groups"])
    state, seen = cf.state(order), []
    module.norm_1.load_state_dict({k: state[f"block.0.{k}"] for k in ("weight", "bias")})
    module.conv_1.load_state_dict({k: state[f"block.3.{k}"] for k in ("weight", "bias")})
    module.conv_1.register_forward_hook(lambda module, given, out: seen.append(out.clone()))
    with torch.no_grad():
        module(x, None)
    return seen[0]


def embeddings(d: dict) -> None:
    level = torch.tensor(d["noise_level"])
    for name, expected in d.items():
        if name in ("noise_level", "note"):
            continue
        kind, dim = re.match(r"([\w.]+)\(dim=(\d+)\)", name).groups()
        assert kind in ("PositionalEncoding", "UViT.timestep_embedding"), f"no test knows {name}"
        ours = sinusoidal(level, int(dim), cosine_first=kind.startswith("UViT"))
        close(ours, expected, rtol=0)


# --- schedule, training losses, sampling ----------------------------------------------------------


def tables(T: int) -> dict[str, torch.Tensor]:
    """The released code's tables [T], from ours."""
    s = Schedule.cosine(T)
    bar = s.alpha_bar
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    posterior = torch.tensor([s.posterior(t) for t in range(T)], dtype=torch.float64).T
    return {
        "betas": s.beta,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - bar).log(),
        "sqrt_recip_alphas_cumprod": (1 / bar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / bar - 1).sqrt(),
        "posterior_mean_coef1": posterior[0],
        "posterior_mean_coef2": posterior[1],
        "posterior_variance": posterior[2],
        "posterior_log_variance_clipped": posterior[2].clamp(min=1e-20).log(),
    }


def schedule(d: dict) -> None:
    for T, buffers in d.items():
        ours = tables(int(T))
        assert set(buffers) == set(ours)
        for name, expected in buffers.items():
            at = expected.get("at") or dict(enumerate(expected["values"]))
            for t, value in at.items():
                found = ours[name][int(t)].item()
                assert found == pytest.approx(value, rel=1e-6, abs=1e-12), (T, name, t)


def time_grids(d: dict) -> None:
    for T, grids in d.items():
        for steps, expected in grids.items():
            only(expected, "times", "pairs")  # pairs: each time and the next
            assert [*Schedule.cosine(int(T)).grid(int(steps)), -1] == expected["times"]


def released_fusion(d: dict, name: str) -> DiffusionFusion:
    """GMMT around the U that a case of a file names; the file describes both."""
    of_unet, of_uvit = d["ctor"].split("; ")
    modalities = 3 if "x4" in name else 2
    if name.startswith("UViT"):
        network, order = uvit(described(of_uvit)), d["UViT order"]
        channels = described(of_uvit)["in_chans"]
    else:
        options = described(of_unet.replace("in=out=inner=", "inner_channel="))
        channels = options["inner_channel"]
        sizes = options | {"in_channel": channels, "out_channel": channels}
        network, order = unet(sizes, modalities + 1), d[f"UNet x{modalities + 1} order"]
    load(network, released_names(network), order)
    fusion = DiffusionFusion(network, channels, modalities, weighting="released", time="level")
    return fusion.eval()


def cases_of_the_diffusion_are_known(d: dict) -> None:
    only(d, "UNet x4 order", "UNet x3 order", "UViT order", "ctor", "cases")
    known = re.compile(
        r"((UNet x[34]|UViT)( \(.*\))? (train t=\[\d+, \d+\]|predict s=\d+)|elementary t=\d+)"
    )
    only(d["cases"], *(name for name in d["cases"] if known.fullmatch(name)))


def training_losses(d: dict) -> None:
    for name, case in d["cases"].items():
        if " train t=" not in name:
            continue
        only(case, "inputs", "ts", "loss_sum", "loss_mean", "output")
        fusion = released_fusion(d, name)
        fused, *features = (cf.given((2, 8, 8, 8), 40 + i) for i in range(len(fusion.mean)))
        noise = torch.stack([cf.noise((8, 8, 8), j) for j in range(2)])
        with torch.no_grad():
            x_0_hat, terms = fusion.loss(fused, *features, t=torch.tensor(case["ts"]), noise=noise)
        agree(x_0_hat, case["output"])
        assert terms["dm"].item() == pytest.approx(case["loss_mean"], rel=1e-5), name
        assert terms["dm"].item() * fused.numel() == pytest.approx(case["loss_sum"], rel=1e-5)


def predictions(d: dict) -> None:
    for name, case in d["cases"].items():
        if " predict s=" not in name:
            continue
        only(case, "inputs", "randn_calls", "output")
        fusion, steps = released_fusion(d, name), int(name.rpartition("=")[2])
        drawn = []

        def draw(like, generator, drawn=drawn):
            drawn.append(cf.noise(tuple(like.shape), len(drawn)))
            return drawn[-1]

        with mock.patch("gmmt.fusion.unit_noise", draw), torch.no_grad():
            ours = fusion.sample(*inputs(case["inputs"])[:2], steps=steps, eta=1.0)
        agree(ours, case["output"])
        assert len(drawn) == case["randn_calls"]


def elementary_steps(d: dict) -> None:
    s = Schedule.cosine(1000)
    for name, case in d["cases"].items():
        if not name.startswith("elementary"):
            continue
        x_t, x_0 = inputs(case["inputs"])
        t = int(name.rpartition("=")[2])
        noise = cf.noise((1, 2, 3, 3), 0)
        for key, expected in case.items():
            if key == "inputs":
                continue
            if key == "eps":  # values up to 467 at t = 0
                agree(s.predict_noise(x_t, t, x_0), expected, atol=1e-3 if t == 0 else 1e-4)
            elif key == "qsample":
                agree(s.q_sample(x_0, t, cf.noise((1, 2, 3, 3), 9)), expected[0])
                signal, sigma = s.levels(t, x_0)
                agree(signal, expected[1])
                agree(sigma, expected[2])
            elif key == "p_sample->-1":
                # The released step hands x_t through, as the file has it, and its caller has put
                # x_0 there; ours returns x_0.
                torch.testing.assert_close(s.ddim_step(x_t, x_0, t, -1), x_0)
            else:
                t_next = int(re.fullmatch(r"p_sample->(\d+)", key)[1])
                agree(s.ddim_step(x_t, x_0, t, t_next, 1.0, noise), expected)
