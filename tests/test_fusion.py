"""One interface, and what each variant of fusion must do with it."""

import copy

import pytest
import torch
import torch.nn.functional as F

from gmmt.fusion import VARIANTS, CGANFusion, DiffusionFusion, OneCall, make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import UNet
from gmmt.networks.uvit import UViT

C = 4
PRESETS = {
    "paper": {"target": "noise", "weighting": "plain", "track_t": "random", "time": "step"},
    "released": {"target": "x_0", "weighting": "released", "track_t": "random", "time": "level"},
    "ours": {"target": "x_0", "weighting": "plain", "track_t": "last", "time": "step"},
}
"""Options of DiffusionFusion: as the paper's text has them, as the released code has them, and a
consistent choice for s = 1.
"""


def features(n=4, size=8, seed=0):
    f_1, f_2 = torch.randn(2, n, C, size, size, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(f_1 + 0.5 * f_2), f_1, f_2


def network(seed=0, form="paper"):
    torch.manual_seed(seed)
    return UNet(C, 3, inner=8, groups=4, form=form)


def make(variant, **options):
    return make_fusion(
        variant,
        network(),
        C,
        **({"discriminator": Discriminator(C, size=8)} if variant == "CGAN" else {}),
        **options,
    )


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_variants_have_one_interface(variant):
    fused, f_1, f_2 = features()
    model = make(variant)
    fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(0))
    assert fused_star.shape == fused.shape
    assert (
        set(terms)
        == {"DM": {"dm"}, "CGAN": {"cgan"}, "RAW": {"raw"}, "NOISE": {"raw"}, "TRK": set()}[variant]
    )
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    assert model.sample(f_1, f_2, steps=2, generator=rng(0)).shape == fused.shape


@pytest.mark.parametrize("variant", VARIANTS)
def test_noise_goes_in_where_the_table_says(variant):
    _, f_1, f_2 = features()
    model, seen = make(variant).eval(), []
    model.network.register_forward_hook(lambda m, given, out: seen.append(given))
    with torch.no_grad():
        a, b, c = (model.sample(f_1, f_2, generator=rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == (variant in ("RAW", "TRK"))
    assert (seen[0][0] == 0).all() == (variant in ("RAW", "TRK"))
    assert (seen[0][1] == (999 if variant == "DM" else 0)).all()
    assert torch.equal(seen[0][2], f_1)
    assert torch.equal(seen[0][3], f_2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_standardised_inside_and_come_out_in_their_own_units(variant):
    """Moving and scaling every channel, and telling the module, changes nothing but the units of
    what comes out.
    """
    fused, f_1, f_2 = features(n=64)
    scale, shift = (
        torch.tensor([0.1, 1.0, 7.0, 30.0]).view(C, 1, 1),
        torch.tensor([5.0, -2.0, 0.0, 100.0]).view(C, 1, 1),
    )
    plain, moved = make(variant).eval(), make(variant).eval()
    plain.load_state_dict(moved.state_dict())
    plain.fit(fused, f_1, f_2)
    moved.fit(*(x * scale + shift for x in (fused, f_1, f_2)))
    assert {"mean", "std"} <= set(moved.state_dict())
    args = [x[:2] for x in (fused, f_1, f_2)]
    a, terms_a = plain.loss(*args, generator=rng(0))
    b, terms_b = moved.loss(*(x * scale + shift for x in args), generator=rng(0))
    torch.testing.assert_close(a * scale + shift, b, rtol=1e-3, atol=1e-3)
    for term in terms_a:
        torch.testing.assert_close(terms_a[term], terms_b[term], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("variant", "options"), [("RAW", {}), ("DM", {"track_t": "last"})])
def test_one_batch_can_be_learned(variant, options):
    """The error of the sampled fused* falls tenfold on one batch."""
    fused, f_1, f_2 = features()
    model, generator = make(variant, **options), rng(1)

    def error():
        with torch.no_grad():
            return F.mse_loss(model.sample(f_1, f_2, generator=rng(2)), fused).item()

    before = error()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0)
    for _ in range(300):
        _, terms = model.loss(fused, f_1, f_2, generator=generator)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert error() < before / 10


# --- DM -------------------------------------------------------------------------------------------


def test_one_step_is_one_call_at_the_noisiest_step():
    _, f_1, f_2 = features()
    model = make("DM")
    noise = torch.randn(f_1.shape, generator=rng(3))
    expected = model.network(noise, torch.full((4,), 999), f_1, f_2)
    for sampler in ("ddim", "recursion"):
        for eta in (0.0, 1.0):
            torch.testing.assert_close(
                model.sample(f_1, f_2, generator=rng(3), eta=eta, sampler=sampler), expected
            )


@pytest.mark.parametrize("steps", [1, 3])
def test_the_network_is_asked_as_often_as_there_are_steps(steps):
    _, f_1, f_2 = features()
    model, calls = make("DM"), []
    model.network.register_forward_hook(lambda m, given, out: calls.append(int(given[1][0])))
    model.sample(f_1, f_2, steps=steps)
    assert calls == model.schedule.grid(steps)


def test_the_recursion_feeds_the_output_back():
    _, f_1, f_2 = features()
    model = make("DM").eval()
    x = torch.randn(f_1.shape, generator=rng(3))
    for t in model.schedule.grid(3):
        x = model.network(x, torch.full((4,), t), f_1, f_2)
    torch.testing.assert_close(
        model.sample(f_1, f_2, steps=3, generator=rng(3), sampler="recursion"), x
    )


@pytest.mark.parametrize("target", ["x_0", "noise", "v"])
@pytest.mark.parametrize("weighting", ["plain", "released"])
def test_the_loss_is_the_mean_over_items_with_their_own_steps(target, weighting):
    if weighting == "released" and target != "x_0":
        return
    fused, f_1, f_2 = features()
    model = make("DM", target=target, weighting=weighting).eval()
    t, noise = torch.tensor([10, 300, 600, 950]), torch.randn(fused.shape, generator=rng(4))
    x_0_hat, terms = model.loss(fused, f_1, f_2, t=t, noise=noise)
    errors, s = [], model.schedule
    for i in range(4):
        j = slice(i, i + 1)
        a = s.alpha_bar[t[i]].float()
        x_t = a.sqrt() * fused[j] + (1 - a).sqrt() * noise[j]
        out = model.network(x_t, t[j], f_1[j], f_2[j])
        if target == "x_0":
            x_0, error = out, (out - fused[j]).square()
            error = error * (a / (1 - a) if weighting == "released" else 1)
        elif target == "noise":
            x_0, error = (x_t - (1 - a).sqrt() * out) / a.sqrt(), (out - noise[j]).square()
        else:
            x_0 = a.sqrt() * x_t - (1 - a).sqrt() * out
            error = (out - (a.sqrt() * noise[j] - (1 - a).sqrt() * fused[j])).square()
        errors.append(error.mean())
        torch.testing.assert_close(x_0_hat[j], x_0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(terms["dm"], torch.stack(errors).mean(), rtol=1e-3, atol=1e-5)


def test_the_head_gets_what_it_will_meet_at_test_if_track_t_is_last():
    fused, f_1, f_2 = features()
    model = make("DM", track_t="last").eval()
    t, noise = torch.tensor([0, 1, 2, 3]), torch.randn(fused.shape, generator=rng(4))
    fused_star, terms = model.loss(fused, f_1, f_2, t=t, noise=noise, generator=rng(5))
    torch.testing.assert_close(
        fused_star, model.sample(f_1, f_2, generator=rng(5)), rtol=1e-4, atol=1e-5
    )
    model.track_t = "random"
    torch.testing.assert_close(
        terms["dm"], model.loss(fused, f_1, f_2, t=t, noise=noise)[1]["dm"], rtol=1e-4, atol=1e-5
    )


def test_the_released_level_differs_between_training_and_test():
    fused, f_1, f_2 = features()
    model, told = make("DM", **PRESETS["released"]), []
    model.network.register_forward_hook(lambda m, given, out: told.append(given[1].double()))
    model.loss(fused, f_1, f_2, t=torch.full((4,), 499), noise=torch.zeros_like(fused))
    model.sample(f_1, f_2, steps=2)
    torch.testing.assert_close(
        told[0], torch.full((4,), 0.703, dtype=torch.float64), atol=5e-4, rtol=0
    )
    torch.testing.assert_close(
        told[2], torch.full((4,), 0.494, dtype=torch.float64), atol=5e-4, rtol=0
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_modules(preset):
    fused, f_1, f_2 = features()
    _, terms = make("DM", **PRESETS[preset]).loss(fused, f_1, f_2, generator=rng(0))
    assert terms["dm"].isfinite()


# --- CGAN -----------------------------------------------------------------------------------------


def test_discriminator_and_generator_move_each_other():
    """With G frozen, D separates real from fake above 95 %; then, D frozen, G alone moves the mean
    answer from below 0.2 to above 0.5.
    """
    fused, f_1, f_2 = features(n=16)
    model, generator = make("CGAN"), rng(1)
    optimizer = torch.optim.AdamW(model.discriminator.parameters(), lr=5e-3)
    before = [p.clone() for p in model.network.parameters()]
    for _ in range(150):
        loss = model.discriminator_loss(fused, f_1, f_2, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))

    def answers():
        with torch.no_grad():
            fake = model.sample(f_1, f_2, generator=rng(2))
            return model.discriminator(fused, f_1, f_2), model.discriminator(fake, f_1, f_2)

    real, fake = answers()
    assert torch.cat([real > 0.5, fake < 0.5]).float().mean() > 0.95
    assert fake.mean() < 0.2
    frozen = {n: p.clone() for n, p in model.discriminator.named_parameters()}
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=2e-3)
    for _ in range(150):
        _, terms = model.loss(fused, f_1, f_2, generator=generator)
        optimizer.zero_grad()
        terms["cgan"].backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in model.discriminator.named_parameters())
    assert all(
        p.grad is None or not p.grad.abs().sum() > 0
        for p in model.discriminator.parameters()
        if p.grad is None
    )
    assert answers()[1].mean() > 0.5


def test_the_losses_are_squared_errors_to_one_and_zero():
    fused, f_1, f_2 = features()
    model = make("CGAN").eval()
    fake = model.sample(f_1, f_2, generator=rng(7))
    real_answer, fake_answer = (
        model.discriminator(fused, f_1, f_2),
        model.discriminator(fake, f_1, f_2),
    )
    expected = fake_answer.square().mean() + (real_answer - 1).square().mean()
    torch.testing.assert_close(
        model.discriminator_loss(fused, f_1, f_2, generator=rng(7)), expected
    )
    torch.testing.assert_close(
        model.loss(fused, f_1, f_2, generator=rng(7))[1]["cgan"], (fake_answer - 1).square().mean()
    )


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["unet", "uvit"])
def test_losses_are_finite_under_bf16_autocast(variant, kind):
    fused, f_1, f_2 = features()
    model = make(variant)
    if kind == "uvit":
        model.network = UViT(C, 1, dim=16, heads=2, size=8)
    with torch.autocast("cpu", torch.bfloat16):
        fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(0))
        if variant == "CGAN":
            terms["d"] = model.discriminator_loss(fused, f_1, f_2, generator=rng(0))
    (sum(terms.values()) + fused_star.float().square().mean()).backward()
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["UNet", "UViT"])
def test_weights_cast_once_give_nearly_the_same(variant, kind):
    _, f_1, f_2 = features()
    model = make(variant)
    if kind == "UViT":
        model.network = UViT(C, 1, dim=12, heads=3, size=8)
    fast = copy.deepcopy(model)
    fast.network.to(torch.bfloat16)
    with torch.no_grad():
        exact, rough = (m.eval().sample(f_1, f_2, generator=rng(0)) for m in (model, fast))
    assert rough.dtype == torch.float32
    assert {p.dtype for p in fast.network.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert 0 < (rough - exact).norm() / exact.norm() < 0.02


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="unknown fusion 'GAN'"):
        make_fusion("GAN", network(), C)
    with pytest.raises(ValueError, match="CGAN needs a discriminator"):
        make_fusion("CGAN", network(), C)
    for name, value in (
        ("target", "x0"),
        ("weighting", "none"),
        ("track_t", "first"),
        ("time", "t"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            DiffusionFusion(network(), C, **{name: value})
    with pytest.raises(ValueError, match="released weighting is for"):
        DiffusionFusion(network(), C, target="v", weighting="released")
    with pytest.raises(ValueError, match="sampler must be"):
        make("DM").sample(*features()[1:], sampler="euler")
    assert isinstance(make("NOISE"), OneCall)
    assert isinstance(make("CGAN"), CGANFusion)
