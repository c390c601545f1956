"""DM: its loss and its samples, written out and beside diffusers."""

import pytest
import torch
from fusions import C, features, fitted, gradients, in_units, make, rng

from gmmt.schedule import Schedule


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


def test_the_recursion_feeds_the_output_back():
    _, f_1, f_2 = features()
    model = make("DM").eval()
    x = torch.randn(f_1.shape, generator=rng(3))
    for t in model.schedule.grid(3):
        x = model.network(x, torch.full((4,), t), f_1, f_2)
    torch.testing.assert_close(
        model.sample(f_1, f_2, steps=3, generator=rng(3), sampler="recursion"), x
    )


@pytest.mark.parametrize("time", ["step", "level"])
@pytest.mark.parametrize("track_t", ["random", "last"])
@pytest.mark.parametrize(
    ("target", "weighting"),
    [("x_0", "plain"), ("x_0", "released"), ("noise", "plain"), ("v", "plain")],
)
def test_the_loss_of_dm_written_out_item_by_item(target, weighting, track_t, time):
    """What the head gets, the loss, and the gradients of both, from Eq. (2) and the definitions;
    the random numbers in their order: steps, noise, noise of the head's own call.
    """
    options = {"target": target, "weighting": weighting, "track_t": track_t, "time": time}
    model, standard, back = fitted("DM", **options)
    fused, f_1, f_2 = in_units()
    fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(5))

    generator, n = rng(5), len(fused)
    t = torch.randint(1000, (n,), generator=generator)
    noise, last_noise = (torch.randn(fused.shape, generator=generator).double() for _ in "ab")
    alpha_bar, w = model.schedule.alpha_bar, model.network.w

    def call(x_t, step, i):
        """U's output for item i, and the x_0 that it means."""
        a = alpha_bar[step]
        told = a.sqrt() if time == "level" else step
        out = w[0] * x_t + w[1] * standard(1, f_1[i]) + w[2] * standard(2, f_2[i]) + w[3] * told
        if target == "x_0":
            return out, out
        if target == "noise":
            return out, (x_t - (1 - a).sqrt() * out) / a.sqrt()
        return out, a.sqrt() * x_t - (1 - a).sqrt() * out

    errors, stars = [], []
    for i in range(n):
        a, x_0 = alpha_bar[t[i]], standard(0, fused[i])
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise[i]
        out, x_0_hat = call(x_t, t[i], i)
        if weighting == "released":
            error = (x_t - a.sqrt() * out) / (1 - a).sqrt() - noise[i]
        elif target == "x_0":
            error = out - x_0
        elif target == "noise":
            error = out - noise[i]
        else:
            error = out - (a.sqrt() * noise[i] - (1 - a).sqrt() * x_0)
        errors.append(error.square().mean())
        if track_t == "last":
            _, x_0_hat = call(last_noise[i], torch.tensor(999), i)
        stars.append(back(x_0_hat))
    star, loss = torch.stack(stars), torch.stack(errors).mean()
    # As good as float32 is: the loss is computed in it, whatever U's precision.
    torch.testing.assert_close(terms["dm"].double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(fused_star, star, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        gradients(fused_star.sum(), w), gradients(star.sum(), w), rtol=1e-7, atol=1e-7
    )
    fused_star, terms = model.loss(fused, f_1, f_2, generator=rng(5))
    torch.testing.assert_close(gradients(terms["dm"], w), gradients(loss, w), rtol=1e-4, atol=1e-6)


def test_both_calls_of_track_t_last_have_noise_of_their_own():
    model, standard, _ = fitted("DM", track_t="last")
    fused, f_1, f_2 = in_units()
    t, noise = torch.tensor([0, 1, 2, 3, 4]), torch.randn(fused.shape, generator=rng(4)).double()
    fused_star, _ = model.loss(fused, f_1, f_2, t=t, noise=noise, generator=rng(6))
    ((x, steps),) = model.network.inputs
    assert steps.tolist() == [0, 1, 2, 3, 4] + [999] * 5
    own = torch.randn(fused.shape, generator=rng(6)).double()
    assert torch.equal(x[5:], own)
    torch.testing.assert_close(x[:5], model.schedule.q_sample(standard(0, fused), t, noise))
    torch.testing.assert_close(fused_star, model.sample(f_1, f_2, generator=rng(6)))


@pytest.mark.parametrize("time", ["step", "level"])
@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (1, 1.0), (2, 0.0), (5, 0.0), (5, 1.0)])
@pytest.mark.parametrize("target", ["x_0", "noise", "v"])
def test_sampling_around_a_network_equals_diffusers(steps, eta, target, time):
    from diffusers import DDIMScheduler

    model, standard, back = fitted("DM", target=target, time=time)
    _, f_1, f_2 = in_units()
    prediction = {"x_0": "sample", "noise": "epsilon", "v": "v_prediction"}[target]
    theirs = DDIMScheduler(
        clip_sample=False, prediction_type=prediction, timestep_spacing="trailing"
    )
    theirs.alphas_cumprod = alpha_bar = model.schedule.alpha_bar
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    theirs.set_timesteps(steps)
    w, generator = model.network.w, rng(3)
    x = torch.randn(f_1.shape, generator=generator).double()
    with torch.no_grad():
        for t in theirs.timesteps:
            told = alpha_bar[t] if time == "level" else t
            out = w[0] * x + w[1] * standard(1, f_1) + w[2] * standard(2, f_2) + w[3] * told
            noise = None
            if eta > 0 and t != theirs.timesteps[-1]:
                noise = torch.randn(f_1.shape, generator=generator).double()
            step_eta = eta if noise is not None else 0.0
            x = theirs.step(out, t, x, eta=step_eta, variance_noise=noise).prev_sample
        ours = model.sample(f_1, f_2, steps=steps, eta=eta, generator=rng(3))
    torch.testing.assert_close(ours, back(x), rtol=1e-6, atol=1e-6)
    assert [float(t[0]) for _, t in model.network.inputs] == [
        float(alpha_bar[t]) if time == "level" else float(t) for t in theirs.timesteps
    ]


def test_the_loss_meets_the_first_and_the_last_step():
    model, _, _ = fitted("DM", schedule=Schedule.cosine(3))
    model.loss(*in_units(n=200), generator=rng(0))
    assert set(model.network.inputs[0][1].tolist()) == {0, 1, 2}


def test_the_steps_of_sampling():
    model, _, _ = fitted("DM")
    model.sample(*in_units()[1:], steps=10)
    assert [int(t[0]) for _, t in model.network.inputs] == list(range(999, 98, -100))


def test_the_released_level_differs_between_training_and_test():
    fused, f_1, f_2 = features()
    model, told = make("DM", weighting="released", time="level"), []
    model.network.register_forward_hook(lambda m, given, out: told.append(given[1].double()))
    model.loss(fused, f_1, f_2, t=torch.full((4,), 499), noise=torch.zeros_like(fused))
    model.sample(f_1, f_2, steps=2)
    torch.testing.assert_close(
        told[0], torch.full((4,), 0.703, dtype=torch.float64), atol=5e-4, rtol=0
    )
    torch.testing.assert_close(
        told[2], torch.full((4,), 0.494, dtype=torch.float64), atol=5e-4, rtol=0
    )


def test_steps_and_noise_that_do_not_fit_are_refused():
    maps, model = features(), make("DM")
    for t in (torch.tensor([5]), torch.tensor(5), torch.zeros(4, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"t must have shape \(4,\)"):
            model.loss(*maps, t=t)
    with pytest.raises(ValueError, match="and noise"):
        model.loss(*maps, noise=torch.zeros(1, C, 8, 8))
    with pytest.raises(ValueError, match=r"steps must be in -1\.\.999"):
        model.loss(*maps, t=torch.tensor([0, 1, 2, 1000]))
