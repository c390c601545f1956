"""Tracking one target and many, and the miniature's scores."""

import numpy as np
import pytest
import torch

from gmmt import metrics, tracking
from gmmt.data import synthetic
from gmmt.data.boxes import read_boxes, write_results
from gmmt.data.crops import CropRule
from gmmt.data.sequence import RGBT, Sequence, split
from gmmt.errors import GmmtError, SettingError
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet
from gmmt.study import scoring
from gmmt.trackers import heads
from gmmt.trackers.siamese import Siamese
from gmmt.trackers.vit import OSTrack

STILL = tracking.Reading(window=0.0, penalty=0.0, rate=0.0)  # the best place, and the old size


class Oracle(Siamese):
    """A tracker that knows the answer: it marks where a bright spot is in its patch, and gives the
    true size.
    """

    def search(self, template, crops, mode, steps=1, draws=None):
        self.seen.append(len(crops))
        flat = crops[:, 3].flatten(1)
        n = crops.shape[-1]
        spot = flat.argmax(1)
        xy = torch.stack([spot % n, spot // n], 1) + 0.5 - n / 2
        p = heads.points(11, 4)
        far = (p - xy[:, :, None, None]).square().sum(1)
        half = 8.0  # a square target is 16 pixels wide in a template patch of 32
        distance = torch.cat(
            [p - xy[:, :, None, None] + half, xy[:, :, None, None] + half - p], 1
        ).clamp(min=1e-3)
        return torch.stack([far, -far], 1), (distance / 4).log()


def oracle():
    tracker = Oracle()
    tracker.seen = []
    return tracker


def spot_video(name, path, height=128, width=128, red=0, **options):
    """A bright spot on a path [n, 2] of centres; the target is 16 pixels wide."""

    def frame(i):
        image = np.zeros((4, height, width), np.uint8)
        image[0], (x, y) = red, path[i]
        yy, xx = np.mgrid[:height, :width] + 0.5
        image[3] = 200 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8)
        return image

    boxes = np.concatenate([path - 8, np.full((len(path), 2), 16.0)], 1)
    return Sequence(name, boxes, frame, (height, width), **options)


def frames_of_two_sizes():
    """Videos of 30 and 20 frames, of 128 x 128 and 96 x 160 pixels."""
    t = np.arange(30)[:, None]
    return [
        spot_video("a", 40 + t * [1.5, 0.5]),
        spot_video("b", (np.array([130, 30]) + t * [-1, 1.2])[:20], height=96, width=160),
    ]


# --- one target and many --------------------------------------------------------------------------


def test_a_spot_is_followed_and_lock_step_changes_nothing():
    videos, tracker = frames_of_two_sizes(), oracle()
    together = tracking.track_all(tracker, "base", videos, reading=STILL)
    assert tracker.seen == 19 * [2] + 10 * [1]  # one that has ended leaves the batch
    for v in videos:
        alone = list(tracking.track(tracker, "base", v, reading=STILL))
        boxes, scores = together[v.name]
        assert np.array_equal([box for box, _ in alone], boxes)
        assert [score for _, score in alone] == scores.tolist()
        assert boxes.shape == (len(v), 4)
        assert scores.shape == (len(v),)
        assert metrics.overlap(boxes, v.boxes).mean() > 0.9
        assert np.array_equal(boxes[0], v.boxes[0])
        assert scores[0] == 1


def test_many_sequences_go_through_the_network_in_parts(monkeypatch):
    t = np.arange(4)[:, None]
    videos = [spot_video(f"{k}", (30 + 10 * k + t * [1, 0])[: 4 - k % 2]) for k in range(5)]
    tracker = oracle()
    whole = tracking.track_all(tracker, "base", videos, reading=STILL)
    tracker.seen.clear()
    monkeypatch.setattr(tracking, "BATCH", 2)
    parts = tracking.track_all(tracker, "base", videos, reading=STILL)
    assert tracker.seen == [2, 2, 1, 2, 2, 1, 2, 1]  # the last frame has three sequences
    for name, (boxes, scores) in whole.items():
        assert np.array_equal(parts[name][0], boxes)
        assert np.array_equal(parts[name][1], scores)


def test_every_sequence_keeps_its_own_template(monkeypatch):
    class Paired(Oracle):
        def encode_template(self, crops, mode):
            return crops[:, 0].mean((1, 2))  # each video has a red of its own

        def search(self, template, crops, *args):
            torch.testing.assert_close(template, crops[:, 0].mean((1, 2)))
            return super().search(template, crops, *args)

    tracker = Paired()
    tracker.seen = []
    videos = [spot_video(f"{k}", np.full((2 + k % 3, 2), 64.0), red=40 * k) for k in range(5)]
    monkeypatch.setattr(tracking, "BATCH", 2)
    tracking.track_all(tracker, "base", videos, reading=STILL)
    assert tracker.seen == [2, 2, 1, 2, 1, 1]  # of 2, 3, 4, 2 and 3 frames


def with_noise():
    torch.manual_seed(0)
    tracker = Siamese()
    tracker.fusion = make_fusion("NOISE", UNet(32, 3, inner=8, groups=4), 32)
    return tracker


def test_noise_is_the_same_whatever_runs_beside():
    tracker, videos = with_noise(), synthetic.benchmark("val", 3, 6)

    def boxes(videos, seed):
        found = tracking.track_all(tracker, "stage2", videos, seed=seed)
        return found[videos[-1].name][0]

    alone = boxes(videos[1:2], 1)
    np.testing.assert_allclose(boxes(videos[:2], 1), alone, atol=1e-3)
    assert not np.array_equal(boxes(videos[1:2], 2), alone)
    assert not np.array_equal(boxes(videos[1:2], None), alone)


def test_frame_i_has_its_own_noise_in_every_sequence_and_part(monkeypatch):
    class Listener(Oracle):
        def search(self, template, crops, mode, steps=1, draws=None):
            self.noise.append(draws.noise((len(crops), 5)))
            return super().search(template, crops, mode)

    def noise(seed):
        tracker = Listener()
        tracker.seen, tracker.noise = [], []
        t = np.zeros((3, 1))
        videos = [spot_video(f"{k}", t + 40.0 * np.ones(2)) for k in range(3)]
        tracking.track_all(tracker, "base", videos, seed=seed)
        return [torch.cat(tracker.noise[k : k + 2]) for k in (0, 2)]  # of both frames

    monkeypatch.setattr(tracking, "BATCH", 2)
    first, second = noise(3)
    assert torch.equal(first, first[:1].expand(3, 5))
    assert torch.equal(second, second[:1].expand(3, 5))
    assert not torch.equal(first, second)
    assert not torch.equal(first, noise(4)[0])
    assert not noise(None)[0].any()


def layouts(tracker):
    """Which layouts the weights of convolutions have."""
    return {
        w.is_contiguous() for w in tracker.parameters() if w.ndim == 4 and min(w.shape[1:3]) > 1
    }


def test_no_digit_depends_on_the_layout_of_the_weights():
    video = synthetic.benchmark("val", 1, 6)[0]
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        tracker, inside = with_noise().to(memory_format=layout), []
        tracker.fuse.register_forward_hook(lambda *_, t=tracker, s=inside: s.append(layouts(t)))
        found.append(tracking.track_all(tracker, "stage2", [video])[video.name])
        assert inside  # while it tracks, and afterwards
        assert all(kinds == {False} for kinds in inside)
        assert layouts(tracker) == {True}
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_two_tracks_of_one_tracker_do_not_disturb_each_other():
    videos, tracker = synthetic.benchmark("val", 2, 6), with_noise()
    alone = [[box for box, _ in tracking.track(tracker, "stage2", v)] for v in videos]
    first, second = (tracking.track(tracker, "stage2", v) for v in videos)
    mixed = [[next(first)[0], next(first)[0]], [next(second)[0]]]
    first.close()
    assert layouts(tracker) == {False}  # the other still tracks
    mixed[1] += [box for box, _ in second]
    assert np.array_equal(mixed[0], alone[0][:2])
    assert np.array_equal(mixed[1], alone[1])
    assert layouts(tracker) == {True}


def test_weights_can_still_be_trained_after_tracking():
    tracker, video = with_noise(), synthetic.benchmark("val", 1, 3)[0]
    with torch.inference_mode():
        tracking.track_all(tracker, "stage2", [video])
    tracker.train().encode_template(torch.rand(2, 4, 32, 32), "base").sum().backward()
    assert tracker.fuse.weight.grad is not None
    assert not any(p.is_inference() for p in tracker.parameters())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -3.0])
def test_a_first_box_that_is_none_is_refused_by_name(value):
    video = spot_video("street", np.full((3, 2), 50.0))
    video.boxes[0, 2] = value
    with pytest.raises(SettingError, match=r"street: the first box is .*; expected x, y, w, h"):
        tracking.track(oracle(), "base", video)
    with pytest.raises(SettingError, match="street: the first box is"):
        tracking.track_all(oracle(), "base", [frames_of_two_sizes()[0], video])


def test_an_answer_that_is_no_box_is_refused_by_name():
    class Broken(Oracle):
        def search(self, *args):
            cls, loc = super().search(*args)
            return (cls * self.cls, loc * self.loc)

    tracker, video = Broken(), spot_video("street", np.full((3, 2), 50.0))
    for tracker.cls, tracker.loc in ((1, np.nan), (np.nan, 1)):
        tracker.seen = []
        with pytest.raises(GmmtError, match=r"street: the tracker found the box .*nan"):
            list(tracking.track(tracker, "base", video))
        assert layouts(tracker) == {True}


def test_unknown_modes_other_modalities_and_equal_names_are_refused():
    video = spot_video("street", np.full((3, 2), 50.0))
    with pytest.raises(SettingError, match="OSTrack has no mode 'base': expected one of rgb"):
        tracking.track(OSTrack(8, 8, 1, 1, keep={}), "base", video)
    other = spot_video("street", np.full((3, 2), 50.0), modalities={"tir": 1, "rgb": 3})
    with pytest.raises(SettingError, match=r"street has the modalities .*expects .*in this order"):
        tracking.track(oracle(), "base", other)
    with pytest.raises(ValueError, match="a name of its own"):
        tracking.track_all(oracle(), "base", [video, video])


def test_sequences_and_their_modalities():
    video = spot_video("street", np.full((3, 2), 50.0))
    assert video.present.tolist() == [True, True, True]
    parts = split(torch.arange(8).reshape(2, 4, 1, 1), RGBT)
    assert {k: v.flatten().tolist() for k, v in parts.items()} == {
        "rgb": [0, 1, 2, 4, 5, 6],
        "tir": [3, 7],
    }
    with pytest.raises(ValueError, match=r"expected 4 channels .*, got 3"):
        split(np.zeros((3, 5, 5)), RGBT)
    with pytest.raises(ValueError, match=r"street: expected boxes \[n, 4\]"):
        Sequence("street", np.zeros((0, 4)), video.frame, (5, 5))
    with pytest.raises(ValueError, match="street: expected `present` for 3 frames"):
        Sequence("street", video.boxes, video.frame, (5, 5), present=np.ones(2, bool))


@pytest.mark.parametrize(
    "change",
    [{"combine": "add"}, {"clip": "center"}, {"rate": -0.1}, {"margin": np.nan}, {"rate": None}],
)
def test_readings_that_mean_nothing_are_refused(change):
    with pytest.raises(SettingError, match=next(iter(change))):
        tracking.Reading(**change)


# --- reading a score map --------------------------------------------------------------------------


def step(tracker, answer, reading, box=(52.0, 52, 16, 16)):
    """The box and score after a step in a frame of 128 x 128 pixels."""
    target = tracking.Targets(np.array([box]), [(128, 128)], tracker.crops, reading)
    (found,), (score,) = tracking.numbers(target.move(*tracker.decode(*answer)), ["target"])
    return found, score


def test_the_middle_and_steady_sizes_are_preferred():
    tracker = Siamese()
    cls = torch.zeros(1, 2, 11, 11)
    cls[0, 1, 5, 5] = cls[0, 1, 0, 0] = 3.0  # two equal candidates
    loc = torch.full((1, 4, 11, 11), 2.0).log()  # 16 pixels wide
    box, score = step(tracker, (cls, loc), tracking.Reading())
    np.testing.assert_allclose(box, [52, 52, 16, 16], atol=1e-4)
    assert score == pytest.approx(1 / (1 + np.exp(-3)))
    loc[:, :, 5, 5] = torch.tensor(6.0).log()
    box, score = step(tracker, (cls, loc), tracking.Reading(window=0.0, penalty=2.0))
    assert (box[:2] + box[2:] / 2 < 50).all()  # the other candidate, whose size is the old one
    np.testing.assert_allclose(box[2:], [16, 16], atol=1e-4)
    assert score == pytest.approx(1 / (1 + np.exp(-3)))


def test_the_size_follows_by_the_share_rate_times_score():
    tracker = Siamese()
    cls = torch.zeros(1, 2, 11, 11)
    cls[0, 1, 5, 5] = 3.0
    loc = torch.full((1, 4, 11, 11), 4.0).log()  # 32 pixels wide, the last box is 16
    (*_, w, h), score = step(tracker, (cls, loc), tracking.Reading(penalty=0.1, rate=0.5))
    share = np.exp(-0.1 * (2 - 1)) * score * 0.5
    np.testing.assert_allclose([w, h], 16 + share * 16, rtol=1e-5)
    (*_, w, h), _ = step(tracker, (cls, loc), tracking.Reading(resize="at once"))
    np.testing.assert_allclose([w, h], 32, rtol=1e-5)


def test_ostracks_way_to_read_a_score_map():
    tracker = OSTrack(8, 8, 1, 1, patch=4, template=32, search=64, keep={})
    score, size = torch.full((1, 1, 16, 16), 1e-3), torch.full((1, 2, 16, 16), 0.25)
    offset = torch.zeros(1, 2, 16, 16)
    score[0, 0, 6, 10] = 0.9
    size[0, :, 6, 10] = torch.tensor([0.5, 0.25])
    reading = tracking.Reading(**OSTrack.reading)
    # A template of 32 pixels shows 32: the centre is moved by (10, 6) cells from the corner.
    expected = [60 + 10 * 4 - 32 - 16, 60 + 6 * 4 - 32 - 8, 32, 16]
    box, found = step(tracker, (score, size, offset), reading)
    np.testing.assert_allclose(box, expected, atol=1e-4)  # the size at once
    assert found == pytest.approx(0.9)
    score[0, 0, 0, 0] = 1.0  # the window is near 0 in the corner
    np.testing.assert_allclose(
        step(tracker, (score, size, offset), reading)[0], expected, atol=1e-4
    )


def test_a_box_is_clipped_by_its_centre_or_by_its_corners():
    rule = CropRule(32, 32, lambda wh: wh.new_tensor([32.0]))  # a patch pixel is a frame pixel

    def move(box, **reading):
        start, size = np.array([[90.0, 90, 20, 20]]), (120, 100)  # 100 wide, 120 high
        target = tracking.Targets(start, [size], rule, tracking.Reading(**reading))
        low = torch.tensor(box[:2]) - 100
        corners = torch.cat([low, low + torch.tensor(box[2:])])
        found = target.move(torch.ones(1, 1, 1), corners.reshape(1, 4, 1, 1))
        return found[0, :4].tolist()

    options = {"resize": "at once", "smallest": 4.0}
    beyond = [95.0, 70, 20, 10]  # its centre is 5 pixels right of the frame
    assert move(beyond, clip="centre", **options) == pytest.approx([90, 70, 20, 10])
    assert move(beyond, clip="corners", margin=2, **options) == pytest.approx([95, 70, 5, 10])
    assert move(beyond, clip="corners", margin=8, **options) == pytest.approx([92, 70, 8, 10])
    small = [50.0, 50, 1, 1]
    assert move(small, clip="centre", **options) == pytest.approx([48.5, 48.5, 4, 4])
    assert move(small, clip="corners", margin=8, **options) == pytest.approx([48.5, 48.5, 8, 8])


# --- scores ---------------------------------------------------------------------------------------


def test_constant_and_random_trackers_score_where_they_should():
    videos = synthetic.benchmark("val", 20, 48)
    rng = np.random.default_rng(0)
    perfect = {v.name: v.boxes for v in videos}
    random = {
        v.name: np.concatenate([rng.uniform(0, 110, (48, 2)), np.full((48, 2), 18.0)], 1)
        for v in videos
    }
    constant = {v.name: np.tile(v.boxes[:1], (48, 1)) for v in videos}
    sr = {
        name: scoring.evaluate(b, videos)[0].mean("SR")
        for name, b in (("p", perfect), ("r", random), ("c", constant))
    }
    assert (
        20 / 21 - 1e-9 <= sr["p"] <= 1
    )  # overlap 1 passes every threshold but 1 itself, up to the last digit
    assert sr["r"] < 0.08
    assert sr["r"] < sr["c"] < 0.45


def test_attribute_scores_are_those_of_its_frames():
    videos = synthetic.benchmark("val", 10, 48)
    boxes = {}
    for v in videos:
        boxes[v.name] = v.boxes.copy()
        boxes[v.name][v.attributes["LI"], :2] += 500  # lost exactly while LI acts
    _, by = scoring.evaluate(boxes, videos)
    assert by["LI"].mean("SR") == 0
    assert by["LI"].mean("PR") == 0
    assert by["LI"].sequences == tuple(v.name for v in videos if v.attributes["LI"].any())


def test_result_files_are_what_gmmt_score_reads(tmp_path):
    boxes = {"a": np.random.default_rng(0).random((5, 4)) * 50, "b": np.ones((3, 4))}
    write_results(boxes, tmp_path)
    for name, rows in boxes.items():
        np.testing.assert_allclose(read_boxes(tmp_path / f"{name}.txt"), rows, atol=1e-4)
