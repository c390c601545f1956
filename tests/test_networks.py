"""The networks: any size, every parameter, one time folded away, and the discriminator's
pitfall.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.networks.discriminator import Discriminator
from gmmt.networks.unet import ResidualBlock, UNet
from gmmt.networks.uvit import UViT

MAKERS = {
    "UNet, paper": lambda c, m: UNet(c, 3, m, inner=8, groups=4),
    "UNet, released": lambda c, m: UNet(c, 3, m, inner=8, groups=4, form="released"),
    "UViT, paper": lambda c, m: UViT(c, 1, m, dim=16, heads=2, size=8),
    "UViT, released": lambda c, m: UViT(c, 1, m, dim=16, heads=2, size=8, form="released"),
}


def inputs(channels, m, height, width, batch=2):
    x = torch.randn(
        1 + m, batch, channels, height, width, generator=torch.Generator().manual_seed(0)
    )
    return x[0], torch.tensor([0, 999])[:batch], *x[1:]


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(MAKERS)),
    c=st.sampled_from([4, 8]),
    m=st.integers(1, 3),
    height=st.integers(4, 19),
    width=st.integers(4, 19),
)
def test_any_size_channels_and_modalities(name, c, m, height, width):
    if "released" in name and m == 1:
        m = 2  # its residual is the last but one condition
    network = MAKERS[name](c, m).eval()
    x, t, *conditions = inputs(c, m, height, width)
    out = network(x, t, *conditions)
    assert out.shape == x.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_reach_every_parameter_and_every_input(name):
    network = MAKERS[name](4, 2)
    x, t, *conditions = (
        v.requires_grad_() if v.is_floating_point() else v for v in inputs(4, 2, 9, 7)
    )
    (
        network(x, t, *conditions)
        * torch.randn(4, 9, 7, generator=torch.Generator().manual_seed(1))
    ).sum().backward()
    assert [
        n
        for n, p in network.named_parameters()
        if p.grad is None or (not p.grad.abs().sum() > 0 and "position" not in n)
    ] == []
    assert all(v.grad.abs().sum() > 0 for v in (x, *conditions))


@pytest.mark.parametrize("name", MAKERS)
def test_the_time_matters(name):
    network = MAKERS[name](4, 2).eval()
    x, _, *conditions = inputs(4, 2, 8, 8)
    early, late = (network(x, torch.tensor([t, t]), *conditions) for t in (10, 900))
    assert (early - late).abs().max() > 1e-4


def test_items_of_a_batch_do_not_mix():
    for name, make in MAKERS.items():
        network = make(4, 2).eval()
        x, t, *conditions = inputs(4, 2, 8, 8)
        alone = network(x[:1], t[:1], *(c[:1] for c in conditions))
        torch.testing.assert_close(
            network(x, t, *conditions)[:1], alone, rtol=1e-4, atol=1e-5, msg=name
        )


def test_the_number_of_blocks_is_that_of_the_paper_or_of_the_released_code():
    def count(layers):
        return sum(isinstance(layer, ResidualBlock) for layer in layers)

    for n in (3, 6, 9, 12):
        paper, released = (
            UNet(4, n, inner=8, groups=4),
            UNet(4, n, inner=8, groups=4, form="released"),
        )
        assert (count(paper.down), count(paper.middle), count(paper.up)) == (n, 1, n)
        assert (count(released.down), count(released.middle), count(released.up)) == (n, 2, n + 3)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_a_folded_time_gives_the_same_output_with_fewer_parameters(form):
    network = UNet(8, 3, inner=8, groups=4, form=form).eval()
    x, _, *conditions = inputs(8, 2, 16, 16)
    folded = network.folded(999)
    torch.testing.assert_close(
        folded(x, torch.zeros(2), *conditions),
        network(x, torch.full((2,), 999), *conditions),
        rtol=1e-5,
        atol=1e-5,
    )
    gone = {n for n, _ in network.named_parameters()} - {n for n, _ in folded.named_parameters()}
    assert gone
    assert all(n.startswith("time.") or ".shift." in n for n in gone)


def test_full_size_folding_saves_what_the_time_costs():
    with torch.device("meta"):
        network = UNet(768, 9, form="released")
    time = sum(
        p.numel() for n, p in network.named_parameters() if n.startswith("time.") or ".shift." in n
    )
    assert time == pytest.approx(25.7e6, rel=0.01)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="multiple of the 3 levels, got 4"):
        UNet(8, 4, groups=4)
    with pytest.raises(ValueError, match="groups = 5 must divide"):
        UNet(8, 3, groups=5)
    with pytest.raises(ValueError, match="form must be"):
        UNet(8, 3, groups=4, form="relased")
    with pytest.raises(ValueError, match="heads = 3 must divide dim = 16"):
        UViT(8, dim=16, heads=3)
    with pytest.raises(ValueError, match="form must be"):
        UViT(8, dim=16, heads=2, form="relased")


# --- the discriminator ----------------------------------------------------------------------------


def test_the_supplements_discriminator_has_its_shapes_and_parameters():
    d = Discriminator(256, size=31, last_norm=True)
    assert sum(p.numel() for p in d.parameters()) == 1_927_299
    shapes, x = [], torch.zeros(2, 768, 31, 31)
    for layer in d.layers:
        x = layer(x)
        if isinstance(layer, torch.nn.Conv2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(256, 15, 15), (64, 7, 7), (16, 3, 3), (1, 1, 1)]


@pytest.mark.parametrize("size", [16, 31])
def test_it_answers_one_probability_an_item(size):
    d = Discriminator(4, size=size)
    x = torch.randn(3, 5, 4, size, size)
    answer = d(*x)
    assert answer.shape == (5,)
    assert ((answer > 0) & (answer < 1)).all()


def test_a_last_norm_would_make_it_blind():
    """In training mode the mean logit of any batch is the norm's bias, whatever D has learned;
    without that norm it is not.
    """
    torch.manual_seed(0)
    for last_norm in (True, False):
        d = Discriminator(4, size=16, last_norm=last_norm)
        logits = [d.layers(scale * torch.randn(8, 12, 16, 16)).mean() for scale in (0.1, 1.0, 10.0)]
        spread = (max(logits) - min(logits)).item()
        assert (spread < 1e-5) == last_norm
