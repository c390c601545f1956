"""Fast tracking: weights in bf16, and on a GPU a frame's work recorded once."""

import numpy as np
import pytest
import torch
from test_device import MAKE, generator
from typer.testing import CliRunner

from gmmt import compute, tracking
from gmmt.data import synthetic
from gmmt.draws import Draws
from gmmt.recording import HeldDraws, Recording

SCORE_BOUND, BOX_BOUND = 0.02, 0.5
"""By how much bf16 may move an answer: its scores, and its boxes in pixels of the patch."""
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def made(kind):
    torch.manual_seed(0)
    tracker = MAKE[kind]().eval()
    if kind != "ostrack":
        tracker.fusion = generator("DM", kind).eval()
        torch.nn.init.normal_(tracker.fusion.std, 1, 0.1)
    return tracker, "rgb" if kind == "ostrack" else "stage2"


@pytest.mark.parametrize("kind", list(MAKE))
def test_weights_in_bf16_give_nearly_the_same_answers(kind):
    tracker, mode = made(kind)
    generator = torch.Generator().manual_seed(0)
    z, x = (255 * torch.rand(4, 4, n, n, generator=generator) for n in (32, 64))

    @torch.inference_mode()
    def answer():
        template = tracker.encode_template(z, mode)
        return tracker.decode(*tracker.search(template, x, mode, 2, Draws(0, same=True)))

    scores, boxes = answer()
    compute.halve(tracker)
    kinds = {name: p.dtype for name, p in tracker.named_parameters()}
    assert torch.bfloat16 in kinds.values()
    halved_scores, halved_boxes = answer()
    assert halved_scores.dtype == halved_boxes.dtype == torch.float32
    assert (halved_scores - scores).abs().max() < SCORE_BOUND
    assert (halved_boxes - boxes).abs().max() < BOX_BOUND
    assert not torch.equal(halved_scores, scores)
    buffers = {b.dtype for b in tracker.buffers() if b.is_floating_point()}
    assert buffers == {torch.float32}


def test_held_noise_is_the_others_noise_in_fixed_places():
    held, shapes = HeldDraws(), [(2, 3, 4), (2, 5)]
    with torch.inference_mode():  # as a tracker asks for it
        places = [held.again().noise(shapes[0]), held.noise(shapes[1])]
    where = [place.data_ptr() for place in places]
    for seed in (1, 2):
        held.take(Draws(seed, same=True))
        again = [held.again().noise(shapes[0]), held.noise(shapes[1])]
        drawn = Draws(seed, same=True)
        assert [place.data_ptr() for place in again] == where
        assert all(torch.equal(a, drawn.noise(s)) for a, s in zip(again, shapes, strict=True))
    held.take(Draws(None, same=True))
    assert not any(place.any() for place in held.places)


@on_gpu
@pytest.mark.parametrize("kind", list(MAKE))
def test_recorded_work_equals_the_work(kind):
    tracker, mode = made(kind)
    tracker.cuda()
    video = synthetic.benchmark("val", 1, 12)[0]
    found = [
        np.array([[*box, score] for box, score in tracking.track(tracker, mode, video, fast=fast)])
        for fast in (False, True)
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)


@on_gpu
def test_recording_leaves_the_state_as_it_was():
    state = torch.zeros(3, device="cuda")

    def work(frame, draws):
        state.add_(1)
        return state + frame.float().mean() + draws.noise((1, 3), "cuda")[0]

    recording = Recording(work, np.zeros((4, 8, 8), np.uint8), [state])
    assert not state.any()
    frame = torch.full((4, 8, 8), 3, dtype=torch.uint8, device="cuda")
    expected = 4 + Draws(7, same=True).noise((1, 3), "cuda")[0]
    torch.testing.assert_close(recording(frame, Draws(7, same=True)), expected)


@on_gpu
@pytest.mark.parametrize("name", ["DM", "TBSI-DM-uvit"])
def test_the_same_seed_gives_the_same_weights_on_a_gpu(name, tmp_path):
    from gmmt.study import miniature

    states = []
    for k in range(2):
        row = miniature.train(name, "smoke", 0, tmp_path / str(k))
        states.append(row.tracker.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_fast_is_an_option_of_track():
    from gmmt.cli import app

    assert "--fast" in CliRunner().invoke(app, ["track", "--help"]).output
