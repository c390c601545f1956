"""One interface, and what every variant of fusion must do with it; RAW and its controls."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fusions import C, features, fitted, gradients, in_units, make, network, rng

from gmmt.fusion import VARIANTS, CGANFusion, DiffusionFusion, OneCall, make_fusion
from gmmt.networks.uvit import UViT


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


def test_who_learns_in_which_turn():
    for variant in VARIANTS:
        model = make(variant)
        named = {id(p): name for name, p in model.named_parameters()}
        turns = {turn: [named[id(p)] for p in model.parameters_of(turn)] for turn in model.turns}
        if variant == "CGAN":
            assert list(turns) == ["D", "all"]
            assert all(name.startswith("discriminator.") for name in turns["D"])
        else:
            assert list(turns) == ["all"]
        assert turns["all"] == [f"network.{name}" for name, _ in model.network.named_parameters()]
        assert {name for names in turns.values() for name in names} == set(named.values())
        with pytest.raises(ValueError, match="turn must be one of"):
            model.parameters_of("G")


@pytest.mark.parametrize("variant", ["RAW", "NOISE", "TRK"])
def test_one_call_written_out(variant):
    """The output, the loss and the gradients of both, from U's formula at t = 0."""
    model, standard, back = fitted(variant)
    fused, f_1, f_2 = in_units()
    w = model.network.w
    z = torch.randn(fused.shape, generator=rng(3)).double() if variant == "NOISE" else 0.0
    x = w[0] * z + w[1] * standard(1, f_1) + w[2] * standard(2, f_2)
    fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(3))
    torch.testing.assert_close(fused_star, back(x))
    torch.testing.assert_close(model.sample(f_1, f_2, steps=3, generator=rng(3)), back(x))
    expected = back(x).sum()
    if variant != "TRK":
        raw = (x - standard(0, fused)).square().mean()
        torch.testing.assert_close(terms["raw"].double(), raw, rtol=1e-5, atol=0)
        expected = expected + raw
    ours = gradients(fused_star.sum() + sum(terms.values()), w)
    theirs = gradients(expected, w)
    if variant == "NOISE":
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    else:  # nothing comes in beside the conditions
        torch.testing.assert_close(ours[1:3], theirs[1:3], rtol=1e-5, atol=1e-5)
        assert ours[0] == 0


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
    with pytest.raises(ValueError, match="eta must be in"):
        make("DM").sample(*features()[1:], steps=2, eta=2.0)
    assert type(make("NOISE")) is OneCall
    assert type(make("CGAN")) is CGANFusion


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_that_do_not_fit_are_refused(variant):
    fused, f_1, f_2 = features()
    model = make(variant)
    one = "all features must have one shape"
    wrong = [
        ((fused, f_1), "made for 2 modalities, got 1"),
        ((fused, f_1, f_2, f_2), "made for 2 modalities, got 3"),
        ((fused, f_1[:1], f_2[:1]), one),  # these would have been broadcast
        ((fused[:1], f_1, f_2), one),
        ((fused, f_1, f_2[:, :1]), one),
        ((fused[:, :1], f_1[:, :1], f_2[:, :1]), one),
        ((fused, f_1, f_2[..., :1]), one),
        ((fused[0], f_1[0], f_2[0]), one),
    ]
    calls = [model.loss, model.fit]
    if variant == "CGAN":
        calls.append(model.discriminator_loss)
    for maps, message in wrong:
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call(*maps)
    for maps, message in (wrong[0], wrong[1], wrong[4], wrong[5], wrong[6]):
        with pytest.raises(ValueError, match=message):
            model.sample(*maps[1:])


def test_statistics_that_are_none_are_refused():
    fused, f_1, f_2 = features()
    f_2[3, 2, 1, 0] = torch.nan
    with pytest.raises(ValueError, match="f_2 has no finite mean"):
        make("RAW").fit(fused, f_1, f_2)
