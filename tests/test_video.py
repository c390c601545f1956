"""Real video from folders, and the commands that train and track."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gmmt.cli import app
from gmmt.data.boxes import read_boxes
from gmmt.data.video import read_video
from gmmt.errors import GmmtError, SettingError


@pytest.fixture
def folder(tmp_path):
    """A video of 7 frames, 96 x 64, with a bright square that moves to the right."""
    root = tmp_path / "street"
    for kind, mode in (("visible", "RGB"), ("infrared", "L")):
        (root / kind).mkdir(parents=True)
        for i in range(7):
            image = np.full((64, 96), 40, np.uint8)
            image[20:38, 10 + 3 * i : 28 + 3 * i] = 220
            Image.fromarray(image).convert(mode).save(root / kind / f"{i:03d}.png")
    (root / "init.txt").write_text("10,20,18,18\n")
    return root


def test_a_video_is_read_and_scaled(folder):
    video, scale = read_video(folder, target=9.0)
    assert scale == 0.5
    assert len(video) == 7
    assert video.frame(3).shape == (4, 32, 48)
    assert video.size == (32, 48)
    assert dict(video.modalities) == {"rgb": 3, "tir": 1}
    np.testing.assert_allclose(video.boxes[0], [5, 10, 9, 9])
    assert np.isnan(video.boxes[1:]).all()
    bright = video.frame(0)[3] > 120
    assert (np.flatnonzero(bright.any(0))[[0, -1]] == [5, 13]).all()
    assert (np.flatnonzero(bright.any(1))[[0, -1]] == [10, 18]).all()


def test_boxes_for_every_kth_frame_or_from_the_command_line(folder):
    (folder / "init.txt").write_text("10 20 18 18\n19 20 18 18\n28 20 18 18\n")
    video, _ = read_video(folder, target=None)
    assert np.flatnonzero(~np.isnan(video.boxes[:, 0])).tolist() == [0, 3, 6]
    assert video.present.all()
    (folder / "init.txt").write_text("10 20 18 18\n0 0 0 0\n28 20 18 18\n")
    video, _ = read_video(folder, target=None)
    assert np.flatnonzero(~video.present).tolist() == [3]  # annotated, and not there
    video, _ = read_video(folder, box=np.array([1.0, 2, 3, 4]), target=None)
    assert video.boxes[0].tolist() == [1, 2, 3, 4]


def test_what_does_not_fit_is_refused_with_what_was_expected(folder, tmp_path):
    def refused(match, kind=SettingError, **options):
        with pytest.raises(kind, match=match):
            read_video(folder, **options)[0].frame(0)

    with pytest.raises(
        SettingError, match="there is no such folder; expected one with a folder of RGB"
    ):
        read_video(tmp_path / "nowhere")
    (folder / "init.txt").write_text("1,1,5,5\n" * 5)
    refused("5 boxes for 7 frames; expected them for all, every k-th, or the first")
    (folder / "init.txt").write_text("1,1,0,5\n")
    refused("the first box is .* expected x, y, w, h in pixels with a width")
    refused("the first box is", box=np.array([np.nan, 1, 5, 5]))
    (folder / "init.txt").unlink()
    refused("give the first one: --box x,y,w,h")
    (folder / "visible" / "000.png").write_bytes(b"no image")
    refused("000.png: cannot be read as an image", GmmtError, box=np.array([1.0, 1, 9, 9]))
    (folder / "visible" / "000.png").unlink()
    refused("6 RGB images in visible/, 7 thermal ones in infrared/: expected pairs")
    (folder / "infrared").rename(folder / "heat")
    refused("no folder infrared or thermal .* there are: heat, visible")


def test_train_and_track_from_the_command_line(folder, tmp_path):
    options = ["--profile", "smoke", "--weights", str(tmp_path / "weights")]
    run = CliRunner().invoke(app, ["train", "RGB", *options])
    assert run.exit_code == 0, run.output
    assert "on 8 validation sequences" in run.output
    run = CliRunner().invoke(
        app,
        [
            "track",
            "--sequence",
            str(folder),
            "--row",
            "RGB",
            "--out",
            str(tmp_path / "out.txt"),
            *options,
        ],
    )
    assert run.exit_code == 0, run.output
    boxes = read_boxes(tmp_path / "out.txt")
    assert boxes.shape == (7, 4)
    np.testing.assert_allclose(boxes[0], [10, 20, 18, 18], atol=1e-3)
    run = CliRunner().invoke(app, ["train", "Bas", *options])
    assert isinstance(run.exception, SettingError)
    assert "Did you mean Base?" in str(run.exception)
    run = CliRunner().invoke(app, ["track", "--sequence", str(folder), "--box", "1,2,3", *options])
    assert "four numbers with commas" in str(run.exception)


def test_real_video_where_it_is_at_hand(shared):
    bus, scale = read_video(shared / "data" / "real" / "vtuav_bus1")
    assert len(bus) == 101
    assert np.flatnonzero(~np.isnan(bus.boxes[:, 0])).tolist() == list(range(0, 101, 10))
    np.testing.assert_allclose(bus.boxes[0] / scale, [585, 94, 66, 83])
    assert bus.frame(100).shape[0] == 4
    walker, _ = read_video(
        shared / "data" / "real" / "tno_duine", box=np.array([150.0, 190, 14, 36]), target=None
    )
    assert walker.frame(10).shape == (4, 270, 360)  # whatever the files' headers say
