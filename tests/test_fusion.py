"""The first slice of fusion: one interface, and what each variant must do with it."""

import pytest
import torch
import torch.nn.functional as F

from gmmt.fusion import DiffusionFusion, RawFusion
from gmmt.networks.tiny import TinyNet

VARIANTS = [RawFusion, DiffusionFusion]


def features(n=4, channels=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    f_1, f_2 = torch.randn(2, n, channels, size, size, generator=generator)
    return torch.tanh(f_1 + 0.5 * f_2), f_1, f_2


def make(variant, channels=3, seed=0):
    torch.manual_seed(seed)
    return variant(TinyNet(channels))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_batch_can_be_learned(variant):
    """Error of the sampled fused* falls tenfold on one batch, and every parameter gets a gradient."""
    fused, f_1, f_2 = features()
    model, generator = make(variant), torch.Generator().manual_seed(1)

    def error():
        with torch.no_grad():
            return F.mse_loss(model.sample(f_1, f_2, generator=torch.Generator().manual_seed(2)), fused).item()

    before = error()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for _ in range(250):
        fused_star, terms = model.loss(fused, f_1, f_2, generator)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert fused_star.shape == fused.shape
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert error() < before / 10


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_sample_and_loss(variant):
    fused, f_1, f_2 = features()
    model = make(variant)

    def once(seed):
        g = torch.Generator().manual_seed(seed)
        return model.sample(f_1, f_2, 2, g), sum(model.loss(fused, f_1, f_2, g)[1].values())

    a, b, c = once(1), once(1), once(2)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[0], c[0]) == (variant is RawFusion)  # RAW draws nothing


def test_one_step_of_diffusion_is_one_call_at_the_noisiest_step():
    _, f_1, f_2 = features()
    model = make(DiffusionFusion)
    noise = torch.randn(f_1.shape, generator=torch.Generator().manual_seed(3))
    expected = model.network(noise, torch.full((4,), 999), f_1, f_2)
    torch.testing.assert_close(model.sample(f_1, f_2, 1, torch.Generator().manual_seed(3)), expected)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_network_is_asked_as_often_as_there_are_steps(steps):
    _, f_1, f_2 = features()
    model = make(DiffusionFusion)
    calls = []
    model.network.register_forward_hook(lambda m, given, out: calls.append(int(given[1][0])))
    model.sample(f_1, f_2, steps)
    assert calls == model.schedule.grid(steps)


def test_the_diffusion_loss_is_the_mean_over_items_with_their_own_steps():
    fused, f_1, f_2 = features()
    model = make(DiffusionFusion)
    x_0_hat, terms = model.loss(fused, f_1, f_2, torch.Generator().manual_seed(4))
    g = torch.Generator().manual_seed(4)
    t = torch.randint(1000, (4,), generator=g)
    noise = torch.randn(fused.shape, generator=g)
    by_hand = torch.cat(
        [
            model.network(
                model.schedule.q_sample(fused[i : i + 1], int(t[i]), noise[i : i + 1]), t[i : i + 1], f_1[i : i + 1], f_2[i : i + 1]
            )
            for i in range(4)
        ]
    )
    torch.testing.assert_close(x_0_hat, by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["dm"], ((by_hand - fused) ** 2).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (5, (4, 7))])
def test_any_size_and_number_of_channels(channels, size):
    net = TinyNet(channels, conditions=2, width=8)
    x = torch.randn(2, channels, *size)
    assert net(x, torch.tensor([0, 999]), x, x).shape == x.shape
