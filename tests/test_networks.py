"""The networks: any size, every parameter, one time folded away, and the discriminator's
pitfall.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.draws import Draws
from gmmt.fusion import make_fusion
from gmmt.networks.discriminator import Discriminator
from gmmt.networks.norm import SyncBatchNorm2d
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
    with pytest.raises(ValueError, match="must be divisible by num_groups"):
        UNet(8, 3, groups=5)
    with pytest.raises(ValueError, match="form must be"):
        UNet(8, 3, groups=4, form="relased")
    with pytest.raises(ValueError, match=r"attention_levels must be in 0\.\.2"):
        UNet(8, 3, groups=4, attention_levels=(1, 3))
    for heads in (0, 3):
        with pytest.raises(ValueError, match=f"heads = {heads} must divide dim = 16"):
            UViT(8, dim=16, heads=heads)
    with pytest.raises(ValueError, match="n_blocks must be 1 at least"):
        UViT(8, 0, dim=16, heads=2)
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


# --- one batch norm for all processes -------------------------------------------------------------


def shared_batch(dtype=torch.float32):
    x = 3 * torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 2
    return x.to(dtype)


def normed(x, share):
    """Output, gradients of x and of the norm's parameters, and running statistics after two
    batches.
    """
    norm, x = SyncBatchNorm2d(4), x[share].clone().requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
        norm(x.flip(0))
    out = norm(x)
    (out.float() ** 3).sum().backward()  # of a sum: shares add up
    parts = {"out": out.detach(), "x": x.grad}
    sums = {"weight": norm.weight.grad, "bias": norm.bias.grad}
    return parts, sums, dict(norm.named_buffers())


def cgan_losses(share, rank, world):
    """Both losses of a CGAN around a released UViT, their gradients, and all running statistics."""
    torch.manual_seed(0)
    model = make_fusion(
        "CGAN",
        UViT(4, 1, dim=16, heads=2, size=8, form="released"),
        4,
        discriminator=Discriminator(4, size=8, widths=(8, 8, 8)),
    )
    fused = shared_batch()[share]
    f_1, f_2 = fused.roll(1, 1).sin(), fused.roll(2, 2).cos()
    means = {}
    turns = {
        "D": lambda: model.discriminator_loss(fused, f_1, f_2, generator=Draws(1, rank, world)),
        "all": lambda: model.loss(fused, f_1, f_2, generator=Draws(2, rank, world))[1]["cgan"],
    }
    for turn, loss in turns.items():
        model.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        means[f"loss of {turn}"] = value.detach()
        for i, p in enumerate(model.parameters_of(turn)):
            means[f"gradient {i} of {turn}"] = p.grad
    return means, dict(model.named_buffers())


def one_of_two(rank, folder):
    """What process `rank` of two computes, written to `folder`; the processes meet in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    share = slice(3 * rank, 3 * rank + 3)
    results = {
        "norm": normed(shared_batch(), share),
        "bf16": normed(shared_batch(torch.bfloat16), share),
        "cgan": cgan_losses(share, rank, 2),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes compute, each on half a batch."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(one_of_two, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "dtype", "near"),
    [
        ("norm", torch.float32, {"rtol": 1e-5, "atol": 1e-4}),
        ("bf16", torch.bfloat16, {"rtol": 1e-2, "atol": 1e-2}),
    ],
)
def test_a_norm_of_two_processes_is_that_of_one(two, name, dtype, near):
    parts, sums, buffers = normed(shared_batch(dtype), slice(None))
    for key, whole in parts.items():
        halves = torch.cat([process[name][0][key] for process in two])
        assert halves.dtype == whole.dtype == dtype
        torch.testing.assert_close(halves, whole, **near)
    for key, whole in sums.items():
        added = two[0][name][1][key] + two[1][name][1][key]
        torch.testing.assert_close(added, whole, **near)
    for key, whole in buffers.items():
        for process in two:
            # Statistics are of float32, whatever the dtype of x.
            torch.testing.assert_close(process[name][2][key], whole, rtol=1e-5, atol=1e-5)


def test_a_cgan_on_two_processes_is_a_cgan_on_one(two):
    means, buffers = cgan_losses(slice(None), 0, 1)
    for key, whole in means.items():
        mean = (two[0]["cgan"][0][key] + two[1]["cgan"][0][key]) / 2
        torch.testing.assert_close(mean, whole, rtol=1e-3, atol=1e-5, msg=key)
    for key, whole in buffers.items():
        for process in two:
            torch.testing.assert_close(process["cgan"][1][key], whole, rtol=1e-4, atol=1e-5)


def test_on_one_process_a_norm_is_that_of_torch():
    x = shared_batch()
    ours, theirs = SyncBatchNorm2d(4), torch.nn.BatchNorm2d(4)
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(x), theirs.train(mode)(x))
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b)
