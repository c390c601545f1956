"""The noise schedule against closed forms, diffusers' scheduler and the released code's numbers."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmt.schedule import Schedule, cosine_beta, linear_beta


def test_cosine_alpha_bar_is_a_squared_cosine_until_the_clip():
    s = Schedule.cosine(1000)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    closed = f / torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=torch.float64)) ** 2
    torch.testing.assert_close(s.alpha_bar[:-1], closed[:-1], rtol=1e-9, atol=0)
    assert s.beta[-1] == 0.999
    assert (s.beta[:-1] < 0.999).all()


PREDICTION = {"x_0": "sample", "noise": "epsilon", "v": "v_prediction"}


def x_0_hat(s, target, x_t, t):
    """x_0 from a stand-in network, tanh, that predicts `target`."""
    out = torch.tanh(x_t)
    return {
        "x_0": lambda: out,
        "noise": lambda: s.predict_x_0(x_t, t, out),
        "v": lambda: s.x_0_from_v(x_t, t, out),
    }[target]()


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("target", PREDICTION)
def test_sampling_equals_diffusers(kind, steps, eta, target):
    from diffusers import DDIMScheduler

    s = getattr(Schedule, kind)(1000)
    theirs = DDIMScheduler(
        clip_sample=False, prediction_type=PREDICTION[target], timestep_spacing="trailing"
    )
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = (
        s.alpha_bar.clone(),
        torch.tensor(1.0, dtype=torch.float64),
    )
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == s.grid(steps)
    generator = torch.Generator().manual_seed(0)
    x = y = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for t, t_next in zip(s.grid(steps), [*s.grid(steps)[1:], -1], strict=True):
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = s.ddim_step(x, x_0_hat(s, target, x, t), t, t_next, eta, noise)
        y = theirs.step(
            torch.tanh(y), t, y, eta=eta, variance_noise=noise if eta else None
        ).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("t", [999, 500, 100, 1])
def test_ancestral_steps_and_the_posterior_equal_diffusers(kind, t, monkeypatch):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    s = getattr(Schedule, kind)(1000)
    theirs = DDPMScheduler(
        clip_sample=False, prediction_type="epsilon", variance_type="fixed_small"
    )
    theirs.betas, theirs.alphas, theirs.alphas_cumprod = (
        s.beta.clone(),
        s.alpha.clone(),
        s.alpha_bar.clone(),
    )
    x, noise = torch.randn(
        2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: noise)
    expected = theirs.step(torch.tanh(x), t, x).prev_sample
    x_0 = s.predict_x_0(x, t, torch.tanh(x))
    on_x_0, on_x_t, variance = s.posterior(t)
    torch.testing.assert_close(
        on_x_0 * x_0 + on_x_t * x + variance**0.5 * noise, expected, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        s.ddim_step(x, x_0, t, t - 1, 1.0, noise), expected, rtol=1e-6, atol=1e-6
    )  # eta = 1, adjacent steps


@pytest.mark.parametrize("t", [1, 300, 500, 998])
def test_eq_3_as_printed_differs_from_the_posterior(t):
    """With U's noise in x_0's place, the mean of DDPM is (x_t - beta / sqrt(1 - alpha_bar) noise) /
    sqrt(alpha), DDPM's Eq. (11); that of Eq. (3) has another coefficient of x_t.
    """
    s = Schedule.cosine()
    alpha, alpha_bar, before = s.alpha[t].item(), s.alpha_bar[t].item(), s.alpha_bar[t - 1].item()
    on_x_0, on_x_t, variance = s.posterior(t)
    assert on_x_t + on_x_0 / alpha_bar**0.5 == pytest.approx(alpha**-0.5, rel=1e-9)
    on_noise = on_x_0 * (1 - alpha_bar) ** 0.5 / alpha_bar**0.5
    assert on_noise == pytest.approx((1 - alpha) / ((1 - alpha_bar) * alpha) ** 0.5, rel=1e-9)
    printed = s.posterior_as_printed(t)
    ratio = (1 - before) / (1 - alpha_bar)
    assert printed == (on_x_0, pytest.approx(alpha_bar**0.5 * ratio, rel=1e-9), variance)
    assert variance == pytest.approx((1 - alpha) * ratio, rel=1e-9)


def test_finding_4_in_numbers():
    """The coefficient of x_t at t = 500 is 0.995 in DDPM and 0.699 in Eq. (3)."""
    s = Schedule.cosine()
    assert s.posterior(500)[1] == pytest.approx(0.995, abs=6e-4)
    assert s.posterior_as_printed(500)[1] == pytest.approx(0.699, abs=6e-4)


def test_weights_on_x_0_are_what_the_errors_say():
    """The squared error of each target, divided by that of x_0, by definition."""
    s = Schedule.cosine()
    x_0, guess, noise = torch.randn(
        3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for t in (0, 400, 998):
        x_t = s.q_sample(x_0, t, noise)
        error = (guess - x_0).square().mean()
        derived = s.predict_noise(x_t, t, guess)
        assert ((derived - noise).square().mean() / error).item() == pytest.approx(
            s.weight_on_x_0("noise")[t].item(), rel=1e-6
        )
        v, v_hat = s.predict_v(x_0, t, noise), s.predict_v(guess, t, derived)
        assert ((v_hat - v).square().mean() / error).item() == pytest.approx(
            s.weight_on_x_0("v")[t].item(), rel=1e-6
        )
        torch.testing.assert_close(s.x_0_from_v(x_t, t, v), x_0)
    assert (s.weight_on_x_0("x_0") == 1).all()
    with pytest.raises(ValueError, match="target must be"):
        s.weight_on_x_0("x0")


def test_q_sample_equals_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    x, z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        Schedule.linear().q_sample(x, t, z), theirs.add_noise(x, z, t), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=50, deadline=None)
@given(t=st.integers(0, 999), seed=st.integers(0, 99), kind=st.sampled_from(["cosine", "linear"]))
def test_x_0_and_noise_determine_each_other(t, seed, kind):
    s = getattr(Schedule, kind)(1000)
    x, z = torch.randn(
        2, 1, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    x_t = s.q_sample(x, t, z)
    torch.testing.assert_close(s.predict_noise(x_t, t, x), z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s.predict_x_0(x_t, t, z), x, rtol=1e-6, atol=1e-6)


def test_unit_variance_stays_unit_variance():
    s = Schedule.cosine()
    x, z = torch.randn(2, 64, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for t in (0, 300, 700, 999):
        x_t = s.q_sample(x, t, z)
        assert x_t.var().item() == pytest.approx(1, abs=0.02)
        assert (x_t * x).mean().item() == pytest.approx(s.alpha_bar[t].sqrt().item(), abs=0.02)


@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_moments_of_q(t):
    schedule, n = Schedule.cosine(), 400_000
    x_0 = torch.full((n, 1), 3.0, dtype=torch.float64)
    x_t = schedule.q_sample(
        x_0, t, torch.randn(n, 1, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    )
    naive = schedule.alpha[: t + 1].prod()  # the definition, a product of what each step keeps
    deviation = (1 - naive).sqrt().item()
    assert abs(x_t.mean().item() - 3 * naive.sqrt().item()) < 4 * deviation / n**0.5
    assert abs(x_t.var().item() / deviation**2 - 1) < 4 * (2 / n) ** 0.5


def test_without_fresh_noise_a_step_is_deterministic_and_with_it_the_noise_alone_moves_it():
    schedule = Schedule.cosine()
    x_t, x_hat, a, b = torch.randn(
        4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    plain = schedule.ddim_step(x_t, x_hat, 999, 499)
    assert torch.equal(plain, schedule.ddim_step(x_t, x_hat, 999, 499, 0.0, a))
    assert not torch.equal(
        schedule.ddim_step(x_t, x_hat, 999, 499, 1.0, a),
        schedule.ddim_step(x_t, x_hat, 999, 499, 1.0, b),
    )


def test_a_step_from_the_truth_lands_on_the_same_path():
    """With the true x_0, DDIM's step gives q_sample with the same noise at the next level; at -1 it
    gives x_0.
    """
    s = Schedule.cosine()
    x, z = torch.randn(
        2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    x_t = s.q_sample(x, 800, z)
    torch.testing.assert_close(s.ddim_step(x_t, x, 800, 300), s.q_sample(x, 300, z))
    torch.testing.assert_close(s.ddim_step(x_t, x, 800, -1), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("t", [1, 20, 500, 998])
def test_a_step_between_neighbours_draws_its_noise_in_half_precision_too(t, dtype):
    """With eta = 1 the noise has the posterior's standard deviation; in bf16 the ratio of two
    neighbouring alpha_bar is 1, and no noise would be left.
    """
    s = Schedule.cosine()
    zero, one = torch.zeros(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype)
    step = s.ddim_step(zero, zero, t, t - 1, 1.0, one)
    assert step.dtype == dtype
    expected = s.posterior(t)[2] ** 0.5
    assert step.item() == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("t", "t_next"), [(999, 998), (999, 799), (400, 399), (1, 0)])
def test_a_step_in_float32_is_as_good_as_float32(t, t_next, eta):
    s = Schedule.cosine()
    x_t, x_0, noise = torch.randn(3, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = s.ddim_step(x_t.double(), x_0.double(), t, t_next, eta, noise.double())
    torch.testing.assert_close(
        s.ddim_step(x_t, x_0, t, t_next, eta, noise).double(), exact, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("T", [1, 7, 1000])
def test_the_grid_falls_evenly_from_the_last_step(T):
    """Sampler's steps, paper, "Analysis of Diffusion Steps": 10 go from 999 to 99."""
    for steps in {1, min(3, T), T // 2 or 1, T}:
        exact = [Fraction(T * (steps - i), steps) - 1 for i in range(steps)]
        assert Schedule.linear(T).grid(steps) == [math.floor(t) for t in exact]
    if T == 1000:
        assert Schedule.linear(T).grid(1) == [999]
        assert Schedule.linear(T).grid(3) == [999, 665, 332]
        assert Schedule.linear(T).grid(10) == list(range(999, 98, -100))
        assert Schedule.linear(T).grid(T) == list(range(999, -1, -1))


def test_each_item_may_have_its_own_step_and_dtype_is_kept():
    s = Schedule.cosine()
    x, z = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([5, 500, 999])
    together = s.q_sample(x, t, z)
    assert together.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(
            together[i], s.q_sample(x[i : i + 1], int(t[i]), z[i : i + 1])[0]
        )


def test_bad_arguments_are_refused():
    s = Schedule.cosine(10)
    for steps in (0, 11):
        with pytest.raises(ValueError, match=r"steps must be in 1\.\.10"):
            s.grid(steps)
    zero = torch.zeros(1)
    assert torch.equal(s.ddim_step(zero, zero + 1, 9, -1, eta=1.0), zero + 1)  # draws none
    for t, t_next in ((4, 4), (4, 9), (10, 4), (0, -2)):
        with pytest.raises(ValueError, match="a step goes from t in"):
            s.ddim_step(zero, zero, t, t_next)
    for eta in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"eta must be in 0\.\.1"):
            s.ddim_step(zero, zero, 9, 4, eta, zero)
    for t in (10, -2, torch.tensor([3, 10])):
        with pytest.raises(ValueError, match=r"steps must be in -1\.\.9"):
            s.q_sample(torch.zeros(2), t, torch.zeros(2))
    for t in (-1, 10):
        with pytest.raises(ValueError, match=r"steps must be in -1\.\.9"):
            s.posterior(t)
    for beta in ([0.1, 1.5], [], [[0.1]]):
        with pytest.raises(ValueError, match="beta must be a vector"):
            Schedule(torch.tensor(beta))
    assert len(cosine_beta(7)) == len(linear_beta(7)) == 7
