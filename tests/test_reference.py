"""Outputs of the released code on closed-form weights and inputs, against ours.

    pytest tests/test_reference.py --reference DIR      checks whatever reference files the folder
    holds

Without the option it is tests/reference. A file is recognised by its name; what no test here knows
is listed as skipped.
"""

import json

import closed_form as cf
import pytest
import torch
from released import load_released, released_state, rename

from gmmt.fusion import DiffusionFusion
from gmmt.networks.embedding import sinusoidal
from gmmt.networks.unet import ResidualBlock, Resize, SelfAttention, UNet
from gmmt.networks.uvit import TransformerBlock, UViT
from gmmt.schedule import Schedule
from gmmt.trackers.heads import DepthwiseBAN, xcorr_depthwise
from gmmt.trackers.siamese import Siamese

KNOWN = (
    "unet_",
    "uvit_",
    "gm_blocks",
    "embeddings",
    "lddiffuse_",
    "predict_timesteps",
    "siamban_",
    "tbsi_",
    "vipt_",
    "ostrack",
)


def agree(x: torch.Tensor, expected: dict, atol: float = 1e-4) -> None:
    """Asserts that a tensor has the shape, values and checksum that a reference file states."""
    assert list(x.shape) == list(expected["shape"])
    flat = x.detach().double().flatten()
    if "full" in expected:
        torch.testing.assert_close(
            flat, torch.tensor(expected["full"], dtype=torch.float64).flatten(), rtol=0, atol=atol
        )
    for values, ours in (
        (expected["first32"], flat[: len(expected["first32"])]),
        (expected["last8"], flat[-len(expected["last8"]) :]),
    ):
        torch.testing.assert_close(
            ours, torch.tensor(values, dtype=torch.float64), rtol=0, atol=atol
        )
    assert cf.checksum(x) == pytest.approx(expected["dot_with_v(3000)"], abs=1e-3)
    assert flat.std(unbiased=False).item() == pytest.approx(expected["std"], abs=2e-3)


@pytest.fixture
def file(reference):
    """A function name -> content of a reference file, or a skip where the folder has none of that
    name.
    """

    def read(name):
        path = reference / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{reference.name} holds no {path.name}")
        return json.loads(path.read_text())

    return read


def test_every_file_is_known(reference):
    unknown = [
        p.stem for p in sorted(reference.glob("*.json")) if not p.stem.startswith(tuple(KNOWN))
    ]
    if unknown:
        pytest.skip(
            f"no test here reads {', '.join(unknown)}: other parts of the project do, or will"
        )


# --- networks -------------------------------------------------------------------------------------


def unet(ctor: dict, multiple: int) -> UNet:
    sizes = [ctor["image_size"] // 2**level for level in range(3)]
    attention = tuple(level for level, size in enumerate(sizes) if size in ctor["attn_res"])
    options = {
        "groups": ctor["norm_groups"],
        "multipliers": tuple(ctor["channel_mults"]),
        "attention_levels": attention,
    }
    return UNet(
        ctor["in_channel"],
        3 * ctor["res_blocks"],
        multiple - 1,
        ctor["inner_channel"],
        form="released",
        **options,
    )


@pytest.mark.parametrize("name", ["unet_tiny_x3", "unet_small_x3", "unet_small_x4"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_unet(file, name, dtype, atol):
    d = file(name)
    c, size, multiple = d["ctor"]["in_channel"], d["ctor"]["image_size"], d["in_mult"]
    batch = 1 if "tiny" in name else 2
    network = unet(d["ctor"], multiple)
    load_released(network, cf.state(d["order"]))
    assert sum(p.numel() for p in network.parameters()) == d["params"]
    x, f_rgb = cf.given((batch, multiple * c, size, size), 10), cf.given((batch, c, size, size), 11)
    parts = [p.to(dtype) for p in x.chunk(multiple, dim=1)]
    with torch.no_grad():
        out = network.to(dtype).eval()(
            parts[0], torch.linspace(0.1, 0.9, batch), *parts[1:], residual=f_rgb.to(dtype)
        )
    agree(out, d[f"output_{str(dtype).removeprefix('torch.')}"], atol)


def uvit(ctor: dict) -> UViT:
    return UViT(
        ctor["in_chans"],
        ctor["depth"] // 2,
        2,
        ctor["embed_dim"],
        ctor["num_heads"],
        ctor["patch_size"],
        form="released",
    )


@pytest.mark.parametrize("name", ["uvit_tiny", "uvit_small"])
def test_uvit(file, name):
    d = file(name)
    c, size = d["ctor"]["in_chans"], d["ctor"]["patch_size"]
    network = uvit(d["ctor"])
    load_released(network, cf.state(d["order"]))
    assert sum(p.numel() for p in network.parameters()) == d["params"]
    parts, f_rgb = (
        cf.given((2, 3 * c, size, size), 20).chunk(3, dim=1),
        cf.given((2, c, size, size), 21),
    )
    for mode in ("output_eval", "output_train_mode"):
        with torch.no_grad():
            out = network.train("train" in mode)(
                parts[0], torch.linspace(0.1, 0.9, 2), *parts[1:], residual=f_rgb
            )
        agree(out, d[mode])
    for statistic in ("running_mean", "running_var"):
        agree(
            getattr(network.norm_out, statistic),
            d["norm2_after_one_train_forward"][f"norm2.{statistic}"],
        )


def test_blocks(file):
    d = file("gm_blocks")
    x, tokens = cf.given((2, 16, 6, 5), 0), cf.given((2, 10, 24), 2)
    cases = {
        "UNet.ResnetBlocWithAttn(16,24,noise_level_emb_dim=12,norm_groups=4,with_attn=True)": (
            ResidualBlock(16, 24, 12, 4, attention=True),
            (x, cf.given((2, 1, 1, 1, 12), 1).reshape(2, 12)),
        ),
        "UNet.SelfAttention(16,norm_groups=4)": (SelfAttention(16, 4), (x,)),
        "UNet.Downsample(16)": (Resize(16, stride=2), (x,)),
        "UNet.Upsample(16,new_res=11)": (Resize(16, stride=1), (x, (11, 11))),
        "UViT.Block(24,4,skip=True)": (
            TransformerBlock(24, 4, skip=True),
            (tokens, cf.given((2, 10, 24), 3)),
        ),
        "UViT.Block(24,4)": (TransformerBlock(24, 4), (tokens,)),
    }
    for name, (module, inputs) in cases.items():
        state = cf.state(d[name]["order"])
        module.load_state_dict(
            dict(zip(module.state_dict(), state.values(), strict=True))
        )  # the order is the same on both sides
        with torch.no_grad():
            agree(module.eval()(*inputs), d[name]["output"])


def test_embeddings(file):
    d = file("embeddings")
    level = torch.tensor(d["noise_level"])
    for name, dim, cosine_first in (
        ("PositionalEncoding(dim=16)", 16, False),
        ("UViT.timestep_embedding(dim=16)", 16, True),
        ("UViT.timestep_embedding(dim=17)", 17, True),
    ):
        torch.testing.assert_close(
            sinusoidal(level, dim, torch.zeros(1), cosine_first),
            torch.tensor(d[name]),
            rtol=0,
            atol=1e-6,
        )


FULL = {
    "unet_full_x3_keys": lambda: UNet(768, 9, 2, form="released"),
    "unet_full_x4_keys": lambda: UNet(768, 9, 3, form="released"),
    "unet_siam256_x3_keys": lambda: UNet(256, 9, 2, attention_levels=(2,), form="released"),
    "uvit_full_depth2_keys": lambda: UViT(768, 1, form="released"),
    "uvit_full_depth16_keys": lambda: UViT(768, 8, form="released"),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size_keys_convert_both_ways(file, name):
    d = file(name)
    with torch.device("meta"):
        network = FULL[name]()
    assert sum(p.numel() for p in network.parameters()) == d["meta"]["params"]
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    theirs = {key: list(value.shape) for key, value in released_state(network).items()}
    assert theirs == d["keys"]
    assert list(theirs) == list(d["keys"])
    kind = "uvit" if "uvit" in name else "unet"
    assert {rename(key, kind, to_ours=True): shape for key, shape in d["keys"].items()} == ours


def test_a_wrong_state_is_refused_by_name():
    network = UNet(8, 3, 2, groups=4, form="released")
    state = released_state(network)
    del state["norm.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*norm\.bias"):
        load_released(network, state)
    with pytest.raises(KeyError, match=r"sideways\.0\.weight"):
        rename("sideways.0.weight", "unet")


# --- schedule, training losses, sampling ----------------------------------------------------------


def test_schedule_buffers(file):
    d = file("lddiffuse_schedule")
    for T, buffers in d.items():
        s = Schedule.cosine(int(T))
        bar, before = s.alpha_bar, torch.cat([torch.ones(1, dtype=torch.float64), s.alpha_bar[:-1]])
        posterior = torch.tensor([s.posterior(t) for t in range(s.T)], dtype=torch.float64).T
        ours = {
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
        assert set(buffers) == set(ours)
        for name, expected in buffers.items():
            at = expected.get("at") or dict(enumerate(expected["values"]))
            for t, value in at.items():
                assert ours[name][int(t)].item() == pytest.approx(value, rel=1e-6, abs=1e-12), (
                    T,
                    name,
                    t,
                )


def test_time_grids(file):
    for T, grids in file("predict_timesteps").items():
        for steps, expected in grids.items():
            assert [*Schedule.cosine(int(T)).grid(int(steps)), -1] == expected["times"]


def released_fusion(d: dict, name: str) -> DiffusionFusion:
    if name.startswith("UViT"):
        network = UViT(8, 1, 2, 16, 2, 8, form="released")
        load_released(network, cf.state(d["UViT order"]))
    else:
        multiple = 4 if "x4" in name else 3
        network = UNet(8, 3, multiple - 1, 8, groups=4, form="released")
        load_released(network, cf.state(d[f"UNet x{multiple} order"]))
    modalities = 3 if "x4" in name else 2
    return DiffusionFusion(network, 8, modalities, weighting="released", time="level").eval()


def test_training_losses(file):
    d = file("lddiffuse_small")
    cases = {name: case for name, case in d["cases"].items() if " train t=" in name}
    assert len(cases) >= 12
    for name, case in cases.items():
        fusion = released_fusion(d, name)
        n = 4 if "x4" in name else 3
        fused, *features = (cf.given((2, 8, 8, 8), 40 + i) for i in range(n))
        noise = torch.stack([cf.noise((8, 8, 8), j) for j in range(2)])
        with torch.no_grad():
            x_0_hat, terms = fusion.loss(fused, *features, t=torch.tensor(case["ts"]), noise=noise)
        agree(x_0_hat, case["output"])
        assert terms["dm"].item() * fused.numel() == pytest.approx(case["loss_sum"], rel=1e-5), name


def test_predictions(file, monkeypatch):
    d = file("lddiffuse_small")
    cases = {name: case for name, case in d["cases"].items() if " predict s=" in name}
    assert len(cases) >= 8
    features = cf.given((1, 8, 8, 8), 30), cf.given((1, 8, 8, 8), 31)
    for name, case in cases.items():
        fusion, steps, calls = released_fusion(d, name), int(name.rpartition("=")[2]), []

        def draw(like, generator, calls=calls):
            calls.append(1)
            return cf.noise(tuple(like.shape), len(calls) - 1)

        monkeypatch.setattr("gmmt.fusion.unit_noise", draw)
        with torch.no_grad():
            agree(fusion.sample(*features, steps=steps, eta=1.0), case["output"])


def test_elementary_steps(file):
    d = file("lddiffuse_small")
    s = Schedule.cosine(1000)
    x_t, x_0 = cf.given((1, 2, 3, 3), 50), cf.given((1, 2, 3, 3), 51)
    for name, case in d["cases"].items():
        if not name.startswith("elementary"):
            continue
        t = int(name.rpartition("=")[2])
        agree(
            s.predict_noise(x_t, t, x_0), case["eps"], atol=1e-3 if t == 0 else 1e-4
        )  # values up to 467 at t = 0
        agree(s.q_sample(x_0, t, cf.noise((1, 2, 3, 3), 9)), case["qsample"][0])
        for key, expected in case.items():
            t_next = int(key.removeprefix("p_sample->")) if key.startswith("p_sample->") else None
            if t_next == -1:
                agree(
                    x_t,
                    expected,
                    # the released step hands x_t through, and its caller has put x_0 there; ours
                    # returns x_0
                )
                torch.testing.assert_close(s.ddim_step(x_t, x_0, t, -1), x_0)
            elif t_next is not None:
                agree(s.ddim_step(x_t, x_0, t, t_next, 1.0, cf.noise((1, 2, 3, 3), 0)), expected)


# --- SiamBAN --------------------------------------------------------------------------------------


def test_siamban_head(file):
    d = file("siamban_head_small")["DepthwiseBAN(8,8,2)"]
    head = DepthwiseBAN(8, 8, 2)
    head.load_state_dict(cf.state(d["order"]))
    with torch.no_grad():
        cls, loc = head.eval()(cf.given((2, 8, 7, 7), 90), cf.given((2, 8, 31, 31), 91))
    agree(cls, d["cls"])
    agree(loc, d["loc"])


def test_siamban_correlation(file):
    d = file("siamban_head_small")["xcorr_depthwise"]
    agree(xcorr_depthwise(cf.given((2, 3, 9, 9), 92), cf.given((2, 3, 4, 4), 93)), d["output"])


def test_siamban_keys_for_one_modality(file):
    keys = file("siamban_r50_layer3only_keys")["keys"]
    renamed = {
        k.replace("neck.downsample.downsample.", "neck."): shape for k, shape in keys.items()
    }
    with torch.device("meta"):
        tracker = Siamese("resnet50", 256, 256, 127, 255)
    ours = {}
    for name, tensor in tracker.state_dict().items():
        part, modality, rest = (*name.split(".", 2), "")[:3]
        if modality == "rgb":
            ours[f"{part}.{rest}"] = list(tensor.shape)
    assert ours == renamed
