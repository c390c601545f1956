"""Random numbers: all steps alike, shared by processes, the same for all items, or none."""

import pytest
import torch

from gmmt.draws import Draws, random_steps, unit_noise


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("source", [rng(0), None, Draws(0), Draws(0, 1, 2)])
def test_random_steps_are_all_steps_alike(source):
    """Each of 4 steps is drawn in a quarter of the cases, within four standard deviations."""
    torch.manual_seed(0)  # where the source is None
    n = 20_000
    steps = random_steps(4, n, source)
    assert steps.shape == (n,)
    assert sorted(set(steps.tolist())) == [0, 1, 2, 3]
    share = torch.bincount(steps) / n
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / n) ** 0.5).all()


def test_processes_share_the_draws_of_one():
    whole, parts = Draws(5), [Draws(5, rank, 4) for rank in range(4)]
    assert torch.equal(torch.cat([d.noise((2, 3)) for d in parts]), whole.noise((8, 3)))
    assert torch.equal(torch.cat([d.steps(1000, 2) for d in parts]), whole.steps(1000, 8))
    x = torch.zeros(8, 3, dtype=torch.float64)
    torch.testing.assert_close(
        unit_noise(x, Draws(5)), torch.randn(8, 3, generator=rng(5)).double(), rtol=0, atol=0
    )


def test_the_same_draws_for_all_items_and_none():
    x = torch.zeros(3, 2, 4)
    same = unit_noise(x, Draws(5, same=True))
    expected = torch.randn(1, 2, 4, generator=rng(5))
    assert torch.equal(same, expected.expand(3, 2, 4))
    assert torch.equal(unit_noise(x[:1], Draws(5, same=True)), expected)
    assert len(set(random_steps(1000, 6, Draws(5, same=True)).tolist())) == 1
    assert torch.equal(unit_noise(x, Draws(None)), x)
    with pytest.raises(ValueError, match="give it a seed"):
        random_steps(1000, 6, Draws(None))
