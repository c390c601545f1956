"""CGAN: whose turn it is, and what may not move in it."""

import copy

import pytest
import torch
from fusions import C, features, fitted, in_units, make, rng

from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.uvit import UViT


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
    frozen = copy.deepcopy(model.discriminator.state_dict())
    gradient = [p.grad.clone() for p in model.discriminator.parameters()]
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=2e-3)
    for _ in range(150):
        _, terms = model.loss(fused, f_1, f_2, generator=generator)
        optimizer.zero_grad()
        terms["cgan"].backward()
        optimizer.step()
    assert all(torch.equal(v, frozen[name]) for name, v in model.discriminator.state_dict().items())
    for before_g, p in zip(gradient, model.discriminator.parameters(), strict=True):
        assert torch.equal(before_g, p.grad)
    assert answers()[1].mean() > 0.5


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_losses_of_a_cgan_written_out(mode):
    """Eq. (6), second line, by squared errors; D sees standardised maps, and G's turn reaches U,
    through D and through what the head gets, but never D.
    """
    torch.manual_seed(0)
    discriminator = Discriminator(C, size=8, widths=(8, 8, 8))
    model, standard, back = fitted("CGAN", discriminator=discriminator)
    model.train(mode == "train")
    discriminator.float()  # it computes in float32 in any case
    fused, f_1, f_2 = (x.repeat(1, 1, 3, 3)[..., :8, :8] for x in in_units())
    given = [standard(1, f_1), standard(2, f_2)]
    z = torch.randn(fused.shape, generator=rng(7)).double()
    w = model.network.w
    x = w[0] * z + w[1] * given[0] + w[2] * given[1]  # t = 0

    their_d = copy.deepcopy(discriminator)
    fake, real = their_d(x.detach(), *given), their_d(standard(0, fused), *given)
    expected = fake.square().mean() + (1 - real).square().mean()
    loss = model.discriminator_loss(fused, f_1, f_2, generator=rng(7))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    assert w.grad is None
    for ours, theirs in zip(discriminator.parameters(), their_d.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    model.zero_grad(set_to_none=True)

    their_d = copy.deepcopy(discriminator).requires_grad_(False)
    expected = (1 - their_d(x, *given)).square().mean()
    fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(7))
    torch.testing.assert_close(fused_star, back(x))
    torch.testing.assert_close(terms["cgan"], expected)
    ours = torch.autograd.grad(terms["cgan"] + fused_star.sum(), w, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected + back(x).sum(), w))
    (terms["cgan"] + fused_star.sum()).backward()
    assert all(p.grad is None for p in discriminator.parameters())


def test_no_running_statistic_moves_in_the_turn_of_the_other():
    """In training mode both D and the released UViT keep running statistics."""
    fused, f_1, f_2 = features()
    generator = UViT(C, 1, dim=16, heads=2, size=8, form="released")
    model = make_fusion("CGAN", generator, C, discriminator=Discriminator(C, size=8)).train()

    def moved(turn):
        before = {name: v.clone() for name, v in model.named_buffers()}
        turn(fused, f_1, f_2, generator=rng(0))
        return {name for name, v in model.named_buffers() if not torch.equal(v, before[name])}

    statistics = {name for name, _ in model.named_buffers() if name not in ("mean", "std")}
    of_d = {name for name in statistics if name.startswith("discriminator.")}
    assert len(of_d) == 9  # mean, variance and count of three norms
    assert moved(model.discriminator_loss) == of_d
    assert moved(model.loss) == statistics - of_d
