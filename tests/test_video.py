"""Real video from folders: what is known of the target there, and the commands that train, track
and film.
"""

import functools
import os
import re
import sys
import warnings
from pathlib import Path

import closed_form as cf
import numpy as np
import pytest
import test_official
from PIL import Image
from typer.testing import CliRunner

from gmmt import tracking
from gmmt.cli import app
from gmmt.data import movie
from gmmt.data.boxes import read_boxes
from gmmt.data.sequence import Sequence
from gmmt.data.video import at_size, open_video, read_video
from gmmt.errors import GmmtError, ResultFileError, SettingError, WeightsError
from gmmt.trackers import official


def make_video(root, n=7, folders=("visible", "infrared")):
    """A folder with a video of n frames, 96 x 64, in which a bright square moves to the right."""
    for kind, mode in zip(folders, ("RGB", "L"), strict=True):
        (root / kind).mkdir(parents=True)
        for i in range(n):
            image = np.full((64, 96), 40, np.uint8)
            image[20:38, 10 + 3 * i : 28 + 3 * i] = 220
            Image.fromarray(image).convert(mode).save(root / kind / f"{i:03d}.png")
    return root


@pytest.fixture
def folder(tmp_path):
    root = make_video(tmp_path / "street")
    (root / "init.txt").write_text("10,20,18,18\n")
    return root


def write(folder, rows, name="init.txt"):
    for path in folder.glob("*.txt"):
        path.unlink()
    (folder / name).write_text("\n".join(" ".join(map(str, row)) for row in rows) + "\n")


def boxes_of(n):
    return [(10 + 3 * i, 20, 18, 18) for i in range(n)]


def annotated(video):
    return np.flatnonzero(np.isfinite(video.boxes).all(1)).tolist()


def open_folder(folder, box=None):
    return open_video(folder, folder / "visible", folder / "infrared", box)


# --- frames ---------------------------------------------------------------------------------------


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


def test_a_video_is_called_what_its_folder_is_called(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert read_video(".")[0].name == "street"


def test_a_tiny_target_does_not_make_frames_of_gigabytes(folder):
    video = Sequence("x", np.array([[10.0, 10, 2, 2]]), lambda i: None, (1080, 1920))
    small, scale = at_size(video, 18.0)
    assert max(small.size) == 4096
    assert scale == 4096 / 1920


def test_narrow_frames_keep_their_shape(folder):
    def frame(_):
        values = np.zeros((4, 20, 400), np.uint8)
        values[:, 2:18, 40:340] = 200
        return values

    small, scale = at_size(Sequence("x", np.array([[40.0, 2, 300, 16]]), frame, (20, 400)), 18.0)
    bright = small.frame(0)[3] > 100
    x, y, w, h = small.boxes[0]
    found = [np.flatnonzero(bright.any(axis)) for axis in (0, 1)]
    np.testing.assert_allclose([found[0][0], found[1][0]], [x, y], atol=1)
    np.testing.assert_allclose([len(found[0]), len(found[1])], [w, h], atol=1)
    assert small.size == (8, 160)
    assert scale == 0.4


# --- which boxes of which frames ------------------------------------------------------------------


def test_a_box_for_each_frame_or_one_from_the_command_line(folder):
    write(folder, boxes_of(7))
    video, _ = read_video(folder, target=None)
    assert annotated(video) == list(range(7))
    assert video.present.all()
    video, _ = read_video(folder, box=np.array([1.0, 2, 13, 14]), target=None)
    assert video.boxes[0].tolist() == [1, 2, 13, 14]
    assert annotated(video) == [0]


@pytest.mark.parametrize(("n", "m", "step"), [(21, 3, 10), (30, 3, 10), (25, 3, 10)])
def test_a_box_every_so_many_frames_is_said(tmp_path, n, m, step):
    folder = make_video(tmp_path, n)
    write(folder, boxes_of(n)[::step][:m])
    words = (
        f"init.txt: {m} boxes for {n} frames: taken as one every {step} frames from the first on"
    )
    with pytest.warns(UserWarning, match=words):
        video, _ = open_folder(folder)
    assert annotated(video) == list(range(0, n, step))
    np.testing.assert_allclose(video.boxes[step], boxes_of(n)[step])


@pytest.mark.parametrize(
    ("n", "m"), [(7, 5), (7, 6), (7, 8), (7, 40), (3, 2), (1, 2), (31, 3), (23, 2), (24, 12)]
)
def test_what_cannot_be_known_is_not_guessed_and_not_measured(tmp_path, n, m):
    folder = make_video(tmp_path, n)
    write(folder, boxes_of(m))
    words = f"{m} boxes for {n} frames: not one each, nor .* taken for frame 0, and nothing is meas"
    with pytest.warns(UserWarning, match=words):
        video, _ = open_folder(folder)
    assert annotated(video) == [0]
    assert len(video) == n


@pytest.mark.parametrize("place", ["own", "above"])
def test_vtuavs_file_tells_the_frame_of_the_first_box(tmp_path, place):
    folder = make_video(tmp_path / "train" / "bus", 27, ("rgb", "ir"))
    write(folder, boxes_of(27)[4::10][:2], "rgb.txt")  # of frames 4, 14 and 24 the last is lost
    if place == "own":
        np.save(folder / "init_frame.npy", 4)
    else:
        np.save(tmp_path / "init_frame.npy", {"bus": np.int64(4), "car": 3}, allow_pickle=True)
    words = "the first box is that of frame 4: the track begins there, and the 4 before it"
    told = pytest.warns(UserWarning, match=r"2 boxes for 27 .*one every 10 frames from 4 on .init")
    with told, pytest.warns(UserWarning, match=words):
        video, start = open_video(folder, folder / "rgb", folder / "ir")
    assert (start, len(video)) == (4, 23)
    assert annotated(video) == [0, 10]
    assert np.argmax(video.frame(0)[0, 25] > 200) == video.boxes[0, 0] == 22


@pytest.mark.parametrize("call", [os.system, np.loadtxt])
def test_vtuavs_file_runs_nothing_and_is_named_when_it_is_damaged(folder, call):
    class Hostile:
        def __reduce__(self):
            return call, ("/nowhere",)

    write(folder, boxes_of(3))
    np.save(folder / "init_frame.npy", {"street": Hostile()}, allow_pickle=True)
    words = f"init_frame.npy: expected .*it asks for [a-z.]*.{call.__name__}"
    with pytest.raises(GmmtError, match=words):
        open_folder(folder)
    (folder / "init_frame.npy").write_bytes(b"damaged")
    with pytest.raises(GmmtError, match=r"init_frame.npy: expected the number of a frame"):
        open_folder(folder)


# --- what the rows mean ---------------------------------------------------------------------------


def test_gtots_files_hold_two_corners(folder):
    write(folder, [(x, y, x + w, y + h) for x, y, w, h in boxes_of(7)], "groundTruth_v.txt")
    video, _ = open_folder(folder)
    np.testing.assert_allclose(video.boxes, boxes_of(7))
    write(folder, [(40, 20, 18, 18)] * 7, "groundTruth_v.txt")
    with pytest.warns(UserWarning, match=r"groundTruth_v.txt: read as x, y, w, h: two corners"):
        video, _ = open_folder(folder)
    assert video.boxes[0].tolist() == [40, 20, 18, 18]


@pytest.mark.parametrize(
    "orders",
    [
        [(0, 1, 2, 3)] * 6 + [(2, 1, 0, 3)],
        [(2, 3, 0, 1)] * 7,
        [(0, 3, 2, 1), (2, 1, 0, 3)] * 3 + [(2, 3, 0, 1)],
    ],
)
def test_gtots_corners_stand_in_any_order(folder, orders):
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes_of(7)]
    rows = [tuple(row[k] for k in order) for row, order in zip(corners, orders, strict=True)]
    write(folder, rows, "groundTruth_v.txt")
    np.testing.assert_allclose(open_folder(folder)[0].boxes, boxes_of(7))
    rows[3] = (-1, -1, -1, -1)
    write(folder, rows, "groundTruth_v.txt")
    assert annotated(open_folder(folder)[0]) == [0, 1, 2, 4, 5, 6]


def test_elsewhere_corners_are_only_read_where_nothing_else_is_possible(folder):
    corners = [(60, 30, 88, 60)] * 7  # as x, y, w, h their middle is outside of the frame
    write(folder, corners, "groundtruth.txt")
    with pytest.warns(UserWarning, match=r"groundtruth.txt: read as two corners"):
        video, _ = open_folder(folder)
    assert video.boxes[0].tolist() == [60, 30, 28, 30]
    write(folder, [(10, 20, 28, 38)] * 7, "groundtruth.txt")  # it may be both: no guess
    with pytest.warns(UserWarning, match=r"groundtruth.txt: read as x, y, w, h. Are these two cor"):
        assert open_folder(folder)[0].boxes[0].tolist() == [10, 20, 28, 38]
    # In the upper left they may be both, too, but move together.
    corners = [(x, y, x + w + i % 2, y + h) for i, (x, y, w, h) in enumerate(boxes_of(7))]
    write(folder, corners, "groundtruth.txt")
    with pytest.warns(UserWarning, match=r"groundtruth.txt: read as two corners"):
        assert open_folder(folder)[0].boxes[3].tolist() == [19, 20, 19, 18]
    larger = [(2 + 3 * i, 4 + i, 40 + i, 30) for i in range(7)]  # than its place: a target
    write(folder, larger, "groundtruth.txt")
    with pytest.warns(UserWarning, match=r"Are these two corners"):
        assert open_folder(folder)[0].boxes[3].tolist() == list(larger[3])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, 20, 20, 18, 18)], "the last is no confidence, 0..1 .row 1 ends with 18.* frame's n"),
        ([(1 + 10 * i, 10, 20, 18, 18) for i in range(3)], "the last is no confidence"),
        ([(10, 20, 18, 18, 50)] * 7, "the last is no confidence, 0..1 .row 1 ends with 50"),
        ([(10, 20, 18, 18), (), (), *[(10, 20, 18, 18)] * 4], "5 rows and 2 blank lines for 7 fra"),
        ([(), *[(10, 20, 18, 18)] * 4, (), ()], "4 rows and 3 blank lines for 7 frames. Where the"),
    ],
)
def test_rows_that_may_be_something_else_are_refused(folder, rows, words):
    write(folder, rows, "groundtruth.txt")
    with pytest.raises(ResultFileError, match=words):
        open_folder(folder)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(*box, i % 2) for i, box in enumerate(boxes_of(7))], "only 0 and 1, is passed over: fla"),
        ([*boxes_of(3), (), *boxes_of(7)[3:]], "1 blank lines were passed over"),
        ([*boxes_of(7), ()], None),
        ([(*box, 0.5) for box in boxes_of(7)], None),
    ],
)
def test_what_is_passed_over_in_rows_is_said(folder, rows, words):
    write(folder, rows, "groundtruth.txt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_allclose(open_folder(folder)[0].boxes, boxes_of(7))
    assert len(caught) == (words is not None)
    assert words is None or words in str(caught[0].message)


@pytest.mark.filterwarnings("ignore:.*not one each")
def test_a_row_too_many_and_no_first_box_is_said_as_it_is(folder):
    write(folder, [(0, 0, 0, 0), *boxes_of(7)])
    with pytest.raises(
        SettingError, match=r"in row 1, and of which frames the other 7 rows are is"
    ):
        open_folder(folder)


def test_the_layout_of_vot_rgbt_has_four_corners(tmp_path):
    folder = make_video(tmp_path, 2, ("color", "ir"))
    write(folder, [(10, 20, 28, 20, 28, 38, 10, 38)] * 2, "groundtruth.txt")
    assert read_video(folder, target=None)[0].boxes.tolist() == [[10, 20, 18, 18]] * 2


@pytest.mark.parametrize("absent", [(0, 0, 0, 0), ("nan",) * 4, (-1, -1, -1, -1)])
def test_an_absent_target_is_not_measured(folder, absent):
    rows = boxes_of(7)
    rows[3] = absent
    write(folder, rows, "groundtruth.txt")
    video, _ = open_folder(folder)
    assert annotated(video) == [0, 1, 2, 4, 5, 6]
    assert np.flatnonzero(~video.present).tolist() == [3]
    write(folder, [absent, absent, *boxes_of(7)[2:]], "groundtruth.txt")
    with pytest.warns(UserWarning, match=r"the first box is that of frame 2: the track begins the"):
        video, start = open_folder(folder)
    assert (start, len(video)) == (2, 5)
    assert video.boxes[0].tolist() == [16, 20, 18, 18]
    write(folder, [absent] * 7)
    with pytest.raises(
        SettingError, match=r"absent .* in all of 7 rows; .* Give it: --box x,y,w,h"
    ):
        open_folder(folder)


def test_which_file_of_boxes_is_read(folder):
    write(folder, [(1, 1, 20, 20)], "readme.txt")
    with pytest.raises(
        SettingError, match=r"no text file of boxes .*there are: readme.txt. Give t"
    ):
        open_folder(folder)
    (folder / "infrared.txt").write_text("2 30 20 20\n")
    with pytest.warns(UserWarning, match=r"infrared.txt: boxes of the thermal images"):
        assert open_folder(folder)[0].boxes[0, 0] == 2
    (folder / "Visible.TXT").write_text("3 30 20 20\n")
    (folder / "._init.txt").write_bytes(b"\0")
    assert open_folder(folder)[0].boxes[0, 0] == 3


def test_of_several_files_of_boxes_the_one_with_a_row_a_frame_is_read(folder):
    write(folder, boxes_of(7), "groundtruth.txt")
    (folder / "init.txt").write_text("10 20 18 18\n")
    (folder / "rgb.txt").write_text("1 rgb/1.png\n2 rgb/2.png\n")
    with (
        pytest.warns(UserWarning, match=r"groundtruth.txt: the boxes are read .* not init.txt$"),
        pytest.warns(UserWarning, match=r"passed over: .*rgb.txt, line 1: .* is no box"),
    ):
        assert annotated(open_folder(folder)[0]) == list(range(7))
    write(folder, boxes_of(5), "groundtruth.txt")
    (folder / "visible.txt").write_text("10 20 18 18\n")
    with pytest.warns(UserWarning, match=r"visible.txt: the boxes are .* not groundtruth.txt$"):
        assert annotated(open_folder(folder)[0]) == [0]
    write(folder, [(1, 2)], "groundtruth.txt")
    with pytest.raises(ResultFileError, match=r"groundtruth.txt, line 1: '1 2' has 2 numbers"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("box", "hint"),
    [
        ("0.1,0.3,0.2,0.25", "It looks normalised: multiply x, w by 96 and y, h by 64"),
        ("10,20,0.01,0.01", "no smaller than 2 pixels"),
        ("10,20,0,18", ""),
        ("10,20,-18,18", ""),
        ("10,20,inf,18", ""),
        ("nan,20,18,18", ""),
        ("200,20,18,18", "its middle in the frame"),
        ("-30,20,18,18", ""),
        ("-200,20,500,18", ""),
        ("10,-200,18,500", ""),
        ("60,30,88,60", "Are these two corners"),
    ],
)
def test_a_first_box_without_sense_is_refused_before_any_work(folder, box, hint):
    numbers = np.array([float(v) for v in box.split(",")])
    with pytest.raises(
        SettingError, match=r"--box: the first box is .*; expected x, y, w, h in pix"
    ) as error:
        read_video(folder, numbers)
    assert hint in str(error.value)
    assert "frames of 96 x 64" in str(error.value)
    if np.isfinite(numbers).all() and not hint.startswith("Are"):
        write(folder, [numbers])
        with pytest.raises(
            SettingError, match=r"init.txt: the first box is .*; expected x, y, w, h"
        ):
            read_video(folder)


# --- films ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["gif", "mp4"])
@pytest.mark.parametrize("n", [1, 4])
def test_a_film_shows_both_cameras_and_all_boxes(folder, ending, n):
    if ending == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    write(folder, boxes_of(7))
    video, _ = open_folder(folder)
    video = Sequence("x", video.boxes[:n], video.frame, video.size)
    found = video.boxes + np.array([30, 10, -4, 4])
    path = folder / f"film.{ending}"
    movie.check_movie(path)
    movie.write_movie(path, video, found, "DM", "#CC79A7")
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    if ending == "gif":
        film = Image.open(path)
        assert getattr(film, "n_frames", 1) == n
        film.seek(n - 1)
        last = np.asarray(film.convert("RGB"))
    else:
        import imageio_ffmpeg

        frames = imageio_ffmpeg.read_frames(str(path))
        width, height = next(frames)["source_size"]
        films = list(frames)
        assert len(films) == n
        last = np.frombuffer(films[-1], np.uint8).reshape(height, width, 3)
    assert last.shape == (64 + movie.HEAD, 2 * 96, 3)
    x, y, w, h = found[-1].astype(int)
    for left in (0, 96):
        side = last[movie.HEAD + y + 4 : movie.HEAD + y + h - 4, left + x + w].mean(0)
        assert side[0] > side[1] + 15  # the colour of DM, which is red rather than green
        top = last[movie.HEAD + 20, left + int(video.boxes[-1, 0]) :][:18].astype(int)
        assert (top.min(), top.max()) < (100, 256)  # dashes, black and white
        assert np.ptp(top.mean(1)) > 120


def test_large_videos_are_filmed_small_and_thin_lines_keep_their_colour(tmp_path):
    shades = np.random.default_rng(0).integers(0, 200, (4, 100, 334), np.uint8)
    frame = shades.repeat(3, axis=1).repeat(3, axis=2)[..., :1000]
    video = Sequence("x", np.full((1, 4), np.nan), lambda i: frame, (300, 1000))
    movie.write_movie(tmp_path / "x.gif", video, np.array([[100.0, 50, 40, 40]]), "DM", "#CC79A7")
    film = Image.open(tmp_path / "x.gif")
    assert film.size == (640, 96 + movie.HEAD)
    line = film.convert("RGB").getpixel((36, movie.HEAD + 16))
    np.testing.assert_allclose(line, [0xCC, 0x79, 0xA7], atol=5)


def test_a_film_that_cannot_be_made_is_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(SettingError, match=r"film.avi: expected a name that ends in .mp4 or .gif"):
        movie.check_movie(tmp_path / "film.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"cannot be written .*--video FILE"):
        movie.check_movie(tmp_path / "file" / "film.gif")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SettingError, match=r"an .mp4 needs imageio-ffmpeg: pip install imageio-ff"):
        movie.check_movie(tmp_path / "film.mp4")
    movie.check_movie(tmp_path / "film.gif")


def test_a_film_that_is_not_whole_is_no_film(folder, monkeypatch):
    """As on a full disk, of which ffmpeg's caller is not told; in a folder that looks like an
    address.
    """
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    write(folder, boxes_of(7))
    video, _ = open_folder(folder)
    (folder / "http:").mkdir()
    monkeypatch.chdir(folder)
    path = Path("http:", "film.mp4")
    movie.write_movie(path, video, video.boxes, "DM", "#CC79A7")
    whole = path.read_bytes()
    usual = imageio_ffmpeg.write_frames

    for size in (0, 300, len(whole) // 2):

        def full(name, *args, size=size, **options):
            writer = usual(name, *args, **options)
            try:
                writer.send(None)
                while True:
                    writer.send((yield))
            finally:
                writer.close()
                os.truncate(name, size)

        monkeypatch.setattr(imageio_ffmpeg, "write_frames", full)
        with pytest.raises(GmmtError, match=r"film.mp4: the film cannot be written .0 of 7 frames"):
            movie.write_movie(path, video, video.boxes, "DM", "#CC79A7")
        assert path.read_bytes() == whole
        assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of weights of RGB under smoke, and what the command said that trained them."""
    folder = tmp_path_factory.mktemp("weights")
    options = ["RGB", "--profile", "smoke", "--weights", str(folder)]
    return folder, CliRunner().invoke(app, ["train", *options])


def track(*arguments, weights=None):
    """Runs `gmmt track` with row RGB under profile smoke."""
    options = ["--row", "RGB", "--profile", "smoke"] if weights else []
    options += ["--weights", str(weights)] if weights else []
    return CliRunner().invoke(app, ["track", *map(str, arguments), *options])


pytestmark = pytest.mark.filterwarnings("ignore:weights of profile smoke only show")


def test_train_and_track_from_the_command_line(folder, weights, tmp_path):
    where, trained = weights
    assert trained.exit_code == 0, trained.output
    assert "on 8 validation sequences" in trained.output
    write(folder, boxes_of(7), "visible.txt")
    out, film = tmp_path / "o" / "seq.v2", tmp_path / "o" / "seq.gif"
    run = track("--sequence", folder, "--out", out, "--video", film, weights=where)
    assert run.exit_code == 0, run.output
    assert sorted(p.name for p in out.parent.iterdir()) == ["seq.gif", "seq.v2"]
    boxes = read_boxes(out)
    assert boxes.shape == (7, 4)
    np.testing.assert_allclose(boxes[0], [10, 20, 18, 18], atol=1e-3)
    assert f"RGB: 7 boxes in {out}, film in {film}; mean overlap" in run.stdout
    assert "with 6 later annotated frames" in run.stdout
    assert Image.open(film).n_frames == 7
    with pytest.warns(UserWarning, match=r"RGB samples nothing: --steps changes nothing"):
        run = track("--sequence", folder, "--steps", 3, "--out", out, weights=where)
    assert run.exit_code == 0, run.output  # what is named is replaced
    assert "trains" not in run.stderr  # it was trained before


def test_the_default_name_and_standard_output(folder, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    assert track("--sequence", ".", weights=weights[0]).exit_code == 0
    assert read_boxes(folder / "street.txt").shape == (7, 4)
    run = track("--sequence", ".", weights=weights[0])
    assert isinstance(run.exception, SettingError)
    assert "street.txt: is there already; to replace it, or for another: --out" in str(
        run.exception
    )
    before = sorted(folder.iterdir())
    run = track("--sequence", folder, "--out", "-", weights=weights[0])
    rows = [line.split(",") for line in run.stdout.splitlines()]
    assert [len(row) for row in rows] == [4] * 7
    assert "7 boxes in -" in run.stderr
    assert sorted(folder.iterdir()) == before


def test_folders_by_hand_and_frames_before_the_first_box(folder, weights, tmp_path):
    (folder / "visible").rename(folder / "cam0")
    (folder / "infrared").rename(tmp_path / "heat")
    write(folder, [(0, 0, 0, 0), *boxes_of(7)[1:]], "groundtruth.txt")
    out = tmp_path / "x.txt"
    options = ["--rgb", folder / "cam0", "--thermal", tmp_path / "heat", "--out", out]
    with pytest.warns(UserWarning, match=r"the 1 before it have no box"):
        run = track(*options, weights=weights[0])
    assert run.exit_code == 0, run.output
    boxes = read_boxes(out)
    assert boxes[:2].tolist() == [[0, 0, 0, 0], [13, 20, 18, 18]]
    assert len(boxes) == 7


def test_what_is_asked_for_is_checked_before_any_work(folder, tmp_path, monkeypatch):
    from gmmt.study import miniature

    monkeypatch.setattr(miniature, "train", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for options, words in (
        (["--box", "1,2,3"], "four numbers with commas"),
        (["--steps", 1001], "--steps is 1 to 1000, not 1001"),
        (["--steps", 0], "--steps is 1 to 1000, not 0"),
        (["--row", "DM", "--official", "tbsi", "x"], "name two trackers"),
        (["--row", "Bas", "--profile", "smoke"], "Did you mean Base?"),
        (["--out", folder / "visible"], "an input, or a place where it would be taken for one"),
        (["--out", folder / "infrared" / "x.txt"], "an input, or a place where"),
        (["--out", folder / "Init.txt"], "an input, or a place where"),
        (["--official", "tbsi", "w.pth", "--out", "w.pth"], "an input, or a place where"),
        (["--out", tmp_path], "cannot be written (it is a folder"),
        (["--out", "/dev/stdout"], "For standard output use --out -"),
        (["--row", "DM", "--no-elimination"], "--elimination is of official weights"),
        (["--official", "tbsi", "w.pth", "--seed", 1], "--official needs none of them"),
        (["--official", "tbsi", "w.pth", "--profile", "cpu"], "--official needs none of them"),
        (["--out", tmp_path / "file" / "x.txt"], "cannot be written"),
        (["--video", "x.avi"], "ends in .mp4 or .gif"),
        (["--video", folder / "visible" / "x.gif"], "an input, or a place where"),
        (["--video", "x.gif", "--out", "x.gif"], "expected two names"),
    ):
        run = track("--sequence", folder, *options)
        assert isinstance(run.exception, SettingError), (options, run.output)
        assert words in str(run.exception)


def test_what_is_trained_first_is_said(folder, tmp_path, monkeypatch):
    from gmmt.study import miniature

    def stop(*_, **__):
        raise SettingError("stopped")

    monkeypatch.setattr(miniature, "train", stop)
    options = ["--sequence", folder, "--out", tmp_path / "x", "--weights", tmp_path / "none"]
    for profile, words in (
        ("cpu", r"profile cpu: trains RGB, TIR, Base, DM first \(4800 steps, about 10 min on two"),
        ("smoke", r"profile smoke: trains RGB, TIR, Base, DM first \(44 steps, seconds\)"),
    ):
        run = track(*options, "--profile", profile)
        assert str(run.exception) == "stopped"
        assert re.search(words, run.stderr)
    run = track(*options, "--profile", "cpu", "--row", "TBSI-HEAD")
    assert "trains OSTrack, TBSI, TBSI-HEAD first" in run.stderr
    with pytest.warns(UserWarning, match=r"weights of profile smoke only show that all runs"):
        track(*options, "--profile", "smoke")


@pytest.mark.parametrize(
    ("kind", "gmmt_of", "mode"),
    [
        ("ostrack", None, "rgb"),
        ("vipt", None, "base"),
        ("tbsi", None, "base"),
        ("tbsi", "uvit", "stage2"),
    ],
)
def test_official_weights_track_frames_as_they_are(
    folder, tmp_path, monkeypatch, kind, gmmt_of, mode
):
    network = test_official.networks()[gmmt_of] if gmmt_of else None
    path = test_official.save(tmp_path / "w.pth", cf.state(test_official.order(kind, network)))
    small = functools.partial(official.load_official, **test_official.OPTIONS[kind])
    monkeypatch.setattr(official, "load_official", small)
    asked = []
    tracked = official.OneStream.search

    def search(self, template, crops, mode, *more):
        asked.append((mode, self.crops.whole_pixels))
        return tracked(self, template, crops, mode, *more)

    monkeypatch.setattr(official.OneStream, "search", search)
    track_it, sizes = tracking.track, []

    def tracked_in(tracker, mode, video, **more):
        sizes.append(video.size)
        return track_it(tracker, mode, video, **more)

    monkeypatch.setattr(tracking, "track", tracked_in)
    out = tmp_path / "x.txt"
    run = track("--sequence", folder, "--official", kind, path, "--no-elimination", "--out", out)
    assert run.exit_code == 0, run.output
    assert sizes == [(64, 96)]
    assert asked == [(mode, "ostrack")] * 6
    assert read_boxes(out)[0].tolist() == [10, 20, 18, 18]
    assert f"{kind}: 7 boxes in" in run.stdout
    assert "trains" not in run.stderr


def test_the_first_releases_gmmt_is_refused(folder, tmp_path, monkeypatch):
    class Loaded:
        def __init__(self, *_, **__):
            self.fusion = type("Fusion", (), {"mean": np.zeros((4, 16))})

        def to(self, _):
            return self

    monkeypatch.setattr(official, "load_official", Loaded)
    run = track("--sequence", folder, "--official", "tbsi", "w.pth", "--out", tmp_path / "x")
    assert isinstance(run.exception, WeightsError)
    assert "w.pth: GMMT in it wants 3 conditions" in str(run.exception)


def test_real_video_where_it_is_at_hand(shared):
    with pytest.warns(UserWarning, match=r"11 boxes for 101 frames: taken as one every 10 frames"):
        bus, scale = read_video(shared / "data" / "real" / "vtuav_bus1")
    assert len(bus) == 101
    assert annotated(bus) == list(range(0, 101, 10))
    np.testing.assert_allclose(bus.boxes[0] / scale, [585, 94, 66, 83])
    assert bus.frame(100).shape[0] == 4
    walker, _ = read_video(
        shared / "data" / "real" / "tno_duine", box=np.array([150.0, 190, 14, 36]), target=None
    )
    assert walker.frame(10).shape == (4, 270, 360)  # whatever the files' headers say
