"""Head, crops and tracker, against brute force and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gmmt import metrics, tracking
from gmmt.data import synthetic
from gmmt.data.crops import context_side, crop
from gmmt.draws import Draws, random_steps
from gmmt.fusion import make_fusion
from gmmt.networks.unet import UNet
from gmmt.trackers import heads
from gmmt.trackers.siamese import Siamese


def test_full_size_shapes_are_siambans():
    with torch.device("meta"):
        tracker = Siamese("resnet50", 256, 256, 127, 255).eval()
        z = tracker.encode_template(torch.zeros(1, 4, 127, 127), "base")
        f_rgb, f_tir = tracker.features(torch.zeros(1, 4, 255, 255))
        cls, loc = tracker.head["base"](z, tracker.fused(f_rgb, f_tir))
    assert list(z.shape) == [1, 256, 7, 7]
    assert list(f_rgb.shape) == list(f_tir.shape) == [1, 256, 31, 31]
    assert (list(cls.shape), list(loc.shape)) == ([1, 2, 25, 25], [1, 4, 25, 25])


def test_correlation_equals_a_loop():
    x, k = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 2, 3)
    out = heads.xcorr_depthwise(x, k)
    for b in range(2):
        for c in range(3):
            for i in range(5):
                for j in range(5):
                    assert out[b, c, i, j] == pytest.approx(
                        (x[b, c, i : i + 2, j : j + 3] * k[b, c]).sum().item(), abs=1e-5
                    )


@given(
    st.integers(2, 15),
    st.integers(1, 16),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(2, 40),
    st.floats(2, 40),
)
def test_decoding_the_true_distances_gives_the_box(size, stride, cx, cy, w, h):
    box = torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]], dtype=torch.float64)
    p = heads.points(size, stride).double()
    distance = torch.cat([p - box[:, :2, None, None], box[:, 2:, None, None] - p], dim=1)
    inside = (distance > 1e-3).all(1)
    decoded = heads.decode((distance / stride).clamp(min=1e-9).log(), stride)
    for value in decoded.permute(0, 2, 3, 1)[inside]:
        torch.testing.assert_close(value.double(), box[0], rtol=1e-3, atol=1e-3)


def test_labels_are_two_ellipses():
    positive, negative = heads.labels(torch.tensor([[-8.0, -4, 8, 4], [float("nan")] * 4]), 11, 1)
    axis = range(-5, 6)
    for i, y in enumerate(axis):
        for j, x in enumerate(axis):
            assert positive[0, i, j] == ((x / 4) ** 2 + (y / 2) ** 2 < 1)
            assert negative[0, i, j] == ((x / 8) ** 2 + (y / 4) ** 2 > 1)
    assert not positive[1].any()
    assert negative[1].all()


def test_the_loss_is_least_for_the_right_answer_and_counts_each_image_alike():
    boxes = torch.tensor([[-8.0, -8, 8, 8], [-4.0, -10, 12, 6], [float("nan")] * 4])
    positive, negative = heads.labels(boxes, 11, 4)
    p = heads.points(11, 4)
    distance = (
        torch.cat([p - boxes[:, :2, None, None], boxes[:, 2:, None, None] - p], 1)
        .nan_to_num(1)
        .clamp(min=1e-3)
    )
    right = torch.stack([10 * negative, 10 * positive], 1).float()
    terms = heads.track_loss(right, (distance / 4).log(), boxes, 4)
    assert terms["cls"] < 1e-3
    assert terms["loc"] < 1e-3
    wrong = heads.track_loss(-right, (distance / 4).log() + 0.5, boxes, 4)
    assert wrong["cls"] > 5
    assert wrong["loc"] > 0.2
    alone = [
        heads.track_loss(
            right[i : i + 1], (distance[i : i + 1] / 4).log() + 0.3, boxes[i : i + 1], 4
        )
        for i in range(3)
    ]
    together = heads.track_loss(right, (distance / 4).log() + 0.3, boxes, 4)
    for name in ("cls", "loc"):
        assert together[name] == pytest.approx(sum(a[name].item() for a in alone) / 3, abs=1e-6)


def test_a_crop_keeps_pixels_where_they_were():
    frame = torch.arange(4 * 20 * 30, dtype=torch.float32).reshape(1, 4, 20, 30)
    same = crop(frame, torch.tensor([[13.0, 9.0]]), torch.tensor([10.0]), 10)
    torch.testing.assert_close(same, frame[:, :, 4:14, 8:18], atol=1e-2, rtol=1e-4)
    outside = crop(frame, torch.tensor([[-50.0, -50.0]]), torch.tensor([10.0]), 10)
    torch.testing.assert_close(outside, frame.mean((2, 3), keepdim=True).expand(1, 4, 10, 10))
    assert context_side(torch.tensor([[20.0, 20.0]])).item() == pytest.approx(40)
    assert context_side(torch.tensor([[30.0, 10.0]])).item() == pytest.approx((50 * 30) ** 0.5)


class Oracle(Siamese):
    """A tracker that knows the answer: it marks where a bright spot is in its patch, and gives the
    true size.
    """

    def search(self, template, crops, mode, steps=1, draws=None):
        flat = crops[:, 3].flatten(1)
        n = crops.shape[-1]
        at = flat.argmax(1)
        xy = torch.stack([at % n, at // n], 1) + 0.5 - n / 2
        p = heads.points(11, 4)
        far = (p - xy[:, :, None, None]).square().sum(1)
        half = 8.0  # a square target is 16 pixels wide in a template patch of 32
        distance = torch.cat(
            [p - xy[:, :, None, None] + half, xy[:, :, None, None] + half - p], 1
        ).clamp(min=1e-3)
        return torch.stack([far, -far], 1), (distance / 4).log()


def spot_video(name, path, n=128):
    def frame(i):
        image = np.zeros((4, n, n), np.uint8)
        x, y = path[i]
        yy, xx = np.mgrid[:n, :n] + 0.5
        image[3] = 200 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8)
        return image

    return synthetic.Sequence(
        name, np.concatenate([path - 8, np.full((len(path), 2), 16.0)], 1), frame, {}
    )


def test_tracking_follows_a_spot_and_lock_step_changes_nothing():
    t = np.arange(30)[:, None]
    videos = [spot_video("a", 40 + t * [1.5, 0.5]), spot_video("b", (90 - t * [1, 1.2])[:20])]
    tracker, options = Oracle(), {"search": tracking.Search(window=0.0, penalty=0.0, rate=0.0)}
    together = tracking.track(tracker, "base", videos, **options)
    for v in videos:
        alone = tracking.track(tracker, "base", [v], **options)
        assert np.array_equal(alone[v.name], together[v.name])
        assert len(together[v.name]) == len(v)
        assert metrics.overlap(together[v.name], v.boxes).mean() > 0.9
        assert np.array_equal(together[v.name][0], v.boxes[0])


def test_noise_is_the_same_whatever_runs_beside():
    torch.manual_seed(0)
    tracker = Siamese()
    tracker.fusion = make_fusion("NOISE", UNet(32, 3, inner=8, groups=4), 32)
    videos = synthetic.benchmark("val", 3, 6)
    together = tracking.track(tracker, "stage2", videos, seed=1)
    alone = tracking.track(tracker, "stage2", videos[1:2], seed=1)
    np.testing.assert_allclose(alone[videos[1].name], together[videos[1].name], atol=1e-3)
    other = tracking.track(tracker, "stage2", videos[1:2], seed=2)
    assert not np.array_equal(other[videos[1].name], alone[videos[1].name])


def test_the_search_step_prefers_the_middle_and_steady_sizes():
    tracker = Siamese()
    cls = torch.zeros(1, 2, 11, 11)
    cls[0, 1, 5, 5] = cls[0, 1, 0, 0] = 3.0  # two equal candidates
    loc = torch.full((1, 4, 11, 11), 2.0).log()  # 16 pixels wide
    center, wh = torch.tensor([[60.0, 60.0]]), torch.tensor([[16.0, 16.0]])
    new, size = tracking.step(
        *tracker.decode(cls, loc), center, wh, tracker, tracking.Search(), (128, 128)
    )
    torch.testing.assert_close(new, center)
    torch.testing.assert_close(size, wh)
    loc[:, :, 5, 5] = torch.tensor(6.0).log()
    new, size = tracking.step(
        *tracker.decode(cls, loc),
        center,
        wh,
        tracker,
        tracking.Search(window=0.0, penalty=2.0),
        (128, 128),
    )
    assert (new < 50).all()  # the other candidate, whose size is the old one
    torch.testing.assert_close(size, wh)


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
        name: tracking.evaluate(b, videos)[0].mean("SR")
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
    _, by = tracking.evaluate(boxes, videos)
    assert by["LI"].mean("SR") == 0
    assert by["LI"].mean("PR") == 0
    assert by["LI"].sequences == tuple(v.name for v in videos if v.attributes["LI"].any())


def test_result_files_are_what_gmmt_score_reads(tmp_path):
    from gmmt.data.boxes import read_results, write_results

    boxes = {"a": np.random.default_rng(0).random((5, 4)) * 50, "b": np.ones((3, 4))}
    write_results(boxes, tmp_path)
    back = read_results(tmp_path, ["a", "b"])
    for name, rows in boxes.items():
        np.testing.assert_allclose(back[name], rows, atol=1e-4)


def test_draws_are_shared_out():
    whole = Draws(5).noise(torch.Size([8, 2]))
    parts = [Draws(5, rank, 4).noise(torch.Size([2, 2])) for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(
        torch.cat([random_steps(1000, 2, Draws(5, rank, 4)) for rank in range(4)]),
        random_steps(1000, 8, Draws(5)),
    )
    same = Draws(5, same=True).noise(torch.Size([3, 2]))
    assert torch.equal(same[0], same[2])
