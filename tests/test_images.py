"""Folders of images as people have them: which are found, in which order, and what is read."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmmt.data import manifest, verify
from gmmt.data.image_folders import find_folders, image_files, in_order
from gmmt.data.images import Images
from gmmt.data.video import open_video
from gmmt.errors import GmmtError, SettingError

BOX = np.array([10.0, 20, 18, 18])


def picture(i=0):
    """A gray picture [64, 96] with a bright square that moves to the right."""
    values = np.full((64, 96), 40, np.uint8)
    values[20:38, 10 + 3 * (i % 10) : 28 + 3 * (i % 10)] = 220
    return values


def put(folder, names, make=lambda i: picture(i), **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(make(i)).save(folder / name, **options)
    return folder


def colored(i):
    return np.stack([picture(i), picture(i), picture(i)], axis=-1)


def pair(root, rgb, tir, make=lambda i: picture(i)):
    """Folders of RGB and of thermal images with these names, ready for open_video."""
    return root, put(root / "rgb", rgb, colored), put(root / "ir", tir, make)


def names(n, first=0):
    return [f"{i:03d}.png" for i in range(first, first + n)]


# --- which folders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "thermal"),
    [
        ("visible", "infrared"),
        ("v", "i"),
        ("RGB", "T"),
        ("color", "ir"),
        ("vis", "lwir"),
        ("img_v", "img_i"),
        ("rgb", "ir_gray"),
        ("Visible", "FIR"),
    ],
)
def test_folders_are_known_by_their_names(tmp_path, rgb, thermal):
    for name in (rgb, thermal, "__MACOSX", ".visible"):
        (tmp_path / name).mkdir()
    assert find_folders(tmp_path) == (tmp_path, tmp_path / rgb, tmp_path / thermal)


def test_others_are_named_by_hand(tmp_path, monkeypatch):
    for name in ("cam0", "cam1", "visible"):
        (tmp_path / name).mkdir()
    rgb, thermal = tmp_path / "cam0", tmp_path / "cam1"
    assert find_folders(None, rgb, thermal) == (tmp_path, rgb, thermal)
    found = find_folders(tmp_path, None, thermal.relative_to(tmp_path))
    assert found == (tmp_path, tmp_path / "visible", thermal)
    # What is named is looked for in the video first, then from here.
    (tmp_path / "here" / "cam1").mkdir(parents=True)
    (tmp_path / "here" / "cam2").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.warns(UserWarning, match=r"cam1 is read as thermal, not .*here/cam1"):
        assert find_folders(tmp_path, rgb, Path("cam1"))[2] == thermal
    assert find_folders(tmp_path, rgb, Path("cam2"))[2] == Path("cam2")
    assert find_folders(None, Path("cam1"), Path("cam2"))[1:] == (Path("cam1"), Path("cam2"))
    with pytest.raises(
        SettingError, match=r"no folder infrared or .*; there are: cam0, cam1, here, visi"
    ):
        find_folders(tmp_path)
    with pytest.raises(SettingError, match=r"expected --sequence DIR, or --rgb DIR and --thermal"):
        find_folders(None, rgb)
    with pytest.raises(
        SettingError, match=r"nowhere: there is no such folder; .* of thermal images"
    ):
        find_folders(tmp_path, rgb, tmp_path / "nowhere")
    with pytest.raises(SettingError, match=r"named for RGB and for thermal images"):
        find_folders(tmp_path, rgb, rgb)
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(SettingError, match=r"film.mp4: a file; .* ffmpeg -i"):
        find_folders(tmp_path / "film.mp4")


def test_depth_is_refused_in_plain_words_and_two_thermal_folders_are_told(tmp_path):
    (tmp_path / "color").mkdir()
    (tmp_path / "depth").mkdir()
    with pytest.raises(SettingError, match=r"gmmt has no trackers for depth yet"):
        find_folders(tmp_path)
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir_gray").mkdir()
    with pytest.warns(UserWarning, match=r"ir/ is read as thermal, not ir_gray/; --thermal names"):
        assert find_folders(tmp_path)[2] == tmp_path / "ir"


def test_what_systems_hide_is_passed_over_everywhere(tmp_path):
    folder = put(tmp_path / "rgb", names(2))
    for name in ("._000.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    (folder / "__MACOSX").mkdir()
    assert [p.name for p in image_files(folder)] == names(2)
    layout = {
        "images": [{"folders": ["rgb"], "extensions": ["png"], "modality": "visible"}],
        "annotations": ["rgb.txt"],
        "row_per_image": True,
        "differences": {},
    }
    (tmp_path / "rgb.txt").write_text("1 1 5 5\n" * 2)
    assert list(verify._check_sequence(tmp_path, layout, None)) == []
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x.png").write_bytes(b"")
    found = [p.name for p in manifest._files_in(tmp_path)]
    assert found == [*names(2), "notes.txt", "rgb.txt"]


# --- which order ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["1.png", "10.png", "2.png"], [1, 2, 10]),
        (["v100.png", "v1000.png", "v101.png"], [100, 101, 1000]),
        (["00010v.png", "00009v.png"], [9, 10]),
        (["cam2_7_8bit.png", "cam2_11_8bit.png"], [7, 11]),
        (["12-59-58.png", "13-00-02.png"], [(12, 59, 58), (13, 0, 2)]),
        (["only.png"], ["only"]),
    ],
)
def test_images_are_in_the_order_of_their_numbers(tmp_path, given, expected):
    put(tmp_path, given)
    files, numbers = in_order(tmp_path)
    assert numbers == expected
    assert {p.name for p in files} == set(given)
    if len(given) == 3:
        assert files[2].name == max(given, key=lambda name: int(name.strip("v.png")))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([f"{s}.png" for s in ("63.01", "63.0433", "63.3097", "63.343", "64.0")], None),
        ([f"{k}.{k % 2 + 1}.png" for k in range(3)], None),
        ([f"clip1.{k}.png" for k in range(8, 12)], None),  # no fractions: 10 would be 1
        ([f"{s}.png" for s in ("30-01-2024_6", "31-01-2024_7", "01-02-2024_8")], "6..8, and no"),
        ([f"{12 if k < 58 else 1}-{k}PM.png" for k in range(56, 60)], "56..59, and no other"),
        ([f"conf{c}_frame{k}.png" for k, c in enumerate((9, 3, 5, 7))], "0..3, and no other"),
        ([f"{s}.png" for s in ("1000_940", "1000_980", "1001_20", "1001_61")], None),
        ([f"{s}.png" for s in ("12-58-57", "12-59-59", "13-00-00", "13-00-02")], None),
    ],
)
def test_of_several_numbers_those_are_taken_that_say_the_order(tmp_path, given, words):
    put(tmp_path, given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        files, _ = in_order(tmp_path)
    assert [p.name for p in files] == given
    assert len(caught) == (words is not None)
    assert words is None or words in str(caught[0].message)


def test_an_order_that_names_leave_open_is_said(tmp_path):
    put(tmp_path, [f"{n}_part{m}.png" for m in (1, 2) for n in (1, 2, 3)])
    with pytest.warns(UserWarning, match=r"sorted by the first number that differs, then the next"):
        in_order(tmp_path)
    put(tmp_path / "days", [f"{s}.png" for s in ("30-01_7", "31-01_9", "01-02_3", "01-02_4")])
    with pytest.warns(UserWarning, match=r"sorted by the first number that differs"):
        in_order(tmp_path / "days")


@pytest.mark.parametrize("given", [["-2.png", "-1.png"], ["t_-2.png", "t_-1.png"]])
def test_numbers_below_zero_are_refused(tmp_path, given):
    put(tmp_path, given)
    with pytest.raises(SettingError, match=r"-1.png: a number below zero"):
        in_order(tmp_path)


def test_a_number_twice_and_a_strange_name_are_refused(tmp_path):
    put(tmp_path / "a", ["001.png", "1.png", "2.png"])
    with pytest.raises(SettingError, match=r"001.png and 1.png have the same frame number 1"):
        in_order(tmp_path / "a")
    put(tmp_path / "b", ["001.png", "001.jpg"])
    with pytest.raises(SettingError, match=r"001.jpg and 001.png have the same frame number 1"):
        in_order(tmp_path / "b")
    put(tmp_path / "c", ["001.png", "002.png", "cover.png"])
    with pytest.raises(SettingError, match=r"cover.png: a name unlike 001.png"):
        in_order(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(SettingError, match=r"d: no images \(.jpg, .*.webp\)"):
        in_order(tmp_path / "d")


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_with_equal_gaps_are_fine(tmp_path):
    video, _ = open_video(
        *pair(tmp_path, ["1.png", "2.png", "10.png"], [*names(2, 1), "010.png"]), BOX
    )
    for i in range(3):
        frame = video.frame(i)
        assert np.argmax(frame[0, 25] > 200) == np.argmax(frame[3, 25] > 200) == 10 + 3 * i


@pytest.mark.parametrize(
    ("rgb", "tir", "words"),
    [
        (names(5), names(4), "Without a partner in the other folder: rgb/004.png"),
        (names(5), names(4, 1), "Without a partner in the other folder: rgb/000.png"),
        (names(5)[:2] + names(2, 3), names(5), "Without a partner in the other folder: ir/002.png"),
        (
            ["1.png", "2.png", "3.png", "5.png"],
            ["1.png", "2.png", "4.png", "5.png"],
            "rgb/3.png, ir/4",
        ),
        # The same, of folders that begin with other numbers.
        (names(4) + names(1, 5), names(3, 101) + names(2, 105), "rgb/003.png, ir/105.png"),
        (
            names(49) + names(50, 50),
            names(99),
            "rgb/ has 99 .* partner in the other folder: rgb/099.png, ir/049.png",
        ),
        (
            names(5),
            names(9, 50),
            "rgb/ has 5 images numbered 0 to 4, ir/ has 9 numbered 50 to 58: expected pairs",
        ),
    ],
)
def test_images_without_a_partner_are_named(tmp_path, rgb, tir, words):
    with pytest.raises(SettingError, match=words):
        open_video(*pair(tmp_path, rgb, tir), BOX)


@pytest.mark.parametrize(
    ("rgb", "tir"),
    [
        (names(4), names(4, 1)),
        (names(3), ["000.png", "010.png", "020.png"]),
        ([f"{33 * i + 7}.png" for i in range(5)], [f"{33 * i + i % 3}.png" for i in range(5)]),
        (names(5), [f"{33 * i + i % 3}.png" for i in range(5)]),
        (["a.png", "b.png"], ["x.png", "y.png"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*sorted as text")
def test_other_numbers_are_taken_in_order_and_it_is_said(tmp_path, rgb, tir):
    with pytest.warns(UserWarning, match=r"rgb/ has .*: taken for pairs in their order, the first"):
        video, _ = open_video(*pair(tmp_path, rgb, tir), BOX)
    assert np.argmax(video.frame(1)[3, 25] > 200) == 13


def test_another_shape_of_the_thermal_images_is_said(tmp_path):
    folders = pair(tmp_path, names(2), names(2), lambda i: picture(i)[:, :80])
    with pytest.warns(UserWarning, match=r"ir: images of 80 x 64 are stretched to 96 x 64"):
        video, _ = open_video(*folders, BOX)
    assert video.frame(0).shape == (4, 64, 96)
    half = pair(tmp_path / "half", names(2), names(2), lambda i: picture(i)[::2, ::2])
    video, _ = open_video(*half, BOX)  # the same shape, smaller: nothing to say
    assert np.argmax(video.frame(0)[3, 28] > 130) == 10


# --- depth ----------------------------------------------------------------------------------------


def chunk(name, data):
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png16(path, values):
    """Writes 16-bit colours [h, w, 3], which Pillow cannot, as a PNG."""

    height, width, _ = values.shape
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("dtype", "ending", "bits"),
    [("uint16", "png", 16), ("uint16", "tif", 16), ("int32", "tif", 32), ("float32", "tiff", 32)],
)
def test_deep_images_have_one_range_for_the_whole_video(tmp_path, dtype, ending, bits):
    def make(i):  # the whole video's range is 21000..30180; a frame's own is another
        return (21000 + 40 * picture(i).astype(float) - 1600 + 1000 * i).astype(dtype)

    put(tmp_path / "ir", [f"{i}.{ending}" for i in range(3)], make)
    with pytest.warns(
        UserWarning, match=rf"ir: the images have {bits} bits: 21000..30200, the range of all 3"
    ):
        images = Images(tmp_path / "ir", "L")
    for i in range(3):
        expected = (make(i).astype(float) - 21000) * 255 / 9200
        read = images.read(i)
        assert read.mode == "L"
        np.testing.assert_allclose(np.asarray(read), expected, atol=0.51)


@pytest.mark.parametrize(("wrong", "dtype"), [(0, "uint16"), (65535, "uint16"), (-9999, "float32")])
def test_a_few_values_far_from_the_scene_do_not_make_it_dark(tmp_path, wrong, dtype):
    def make(i):
        scene = 7000.0 + picture(i) + np.arange(96) % 40
        scene[i, :3] = wrong
        return scene.astype(dtype)

    put(tmp_path, [f"{i}.tif" for i in range(3)], make)
    with pytest.warns(UserWarning, match=r"became 0..255; a few values beyond it") as told:
        images = Images(tmp_path, "L")
    words = f"({min(wrong, 7040)}..{max(wrong, 7253)}) are cut off"
    assert words in str(told[0].message)
    assert "these levels" not in str(told[0].message)
    low, high = images.range
    assert 6800 < low <= 7040
    assert 7253 <= high < 7500
    assert np.ptp(np.asarray(images.read(1))[5:]) >= 80


def test_a_small_hot_target_keeps_its_place_above_the_scene(tmp_path):
    def make(_):
        scene = 290 + np.arange(96 * 64, dtype=np.float32).reshape(64, 96) % 10
        scene[30:32, 40:42] = 340  # less than 0.1 % of the pixels
        return scene

    put(tmp_path, ["0.tif"], make)
    with pytest.warns(UserWarning, match=r"290..308, .* beyond it \(290..340\) are cut off"):
        read = np.asarray(Images(tmp_path, "L").read(0))
    assert read[30, 40] == 255
    assert np.delete(read.ravel(), np.flatnonzero(read == 255)).max() < 140


def test_a_scene_without_room_is_said(tmp_path):
    def make(_):
        scene = 290 + np.arange(96 * 64, dtype=np.float32).reshape(64, 96) % 20
        scene[:, :20] = -9999  # one fifth of the pixels: no few
        return scene

    put(tmp_path, ["0.tif"], make)
    with pytest.warns(
        UserWarning, match=r"90 % of the pixels have only 2 of these levels. If some"
    ):
        Images(tmp_path, "L")


def test_deep_images_that_pillow_does_not_read_as_they_are_are_refused(tmp_path):
    put(tmp_path / "a", ["0.tif"], lambda i: picture(i).astype(np.uint16), tiffinfo={262: 0})
    with pytest.raises(SettingError, match=r"0.tif: 16 bits in which 0 is white; expected 0 as bl"):
        Images(tmp_path / "a", "L")
    (tmp_path / "b").mkdir()
    deep = np.arange(8 * 8 * 3).astype(">u2").tobytes()
    (tmp_path / "b" / "0.ppm").write_bytes(b"P6 8 8 4095 " + deep)
    with pytest.raises(SettingError, match=r"0.ppm: PPM of 16 bits as RGB; expected gray without"):
        Images(tmp_path / "b", "RGB")


def test_netpbm_is_read(tmp_path):
    put(tmp_path, ["0.pgm", "1.pgm"])
    assert np.asarray(Images(tmp_path, "L").read(1)).tolist() == picture(1).tolist()


def test_holes_in_fractions_are_left_out_of_the_range_and_counted(tmp_path):
    def make(i):
        values = picture(i).astype(np.float32) / 255
        values[0, :3] = (np.nan, np.inf, -np.inf)
        return values

    put(tmp_path, ["1.tif", "2.tif"], make)
    with pytest.warns(
        UserWarning, match=r"0.156863..0.862745, .*; 6 pixels that are NaN or infinite"
    ):
        images = Images(tmp_path, "L")
    read = np.asarray(images.read(0))
    assert read[0, :3].tolist() == [0, 255, 0]
    assert (read.min(), read[25, 15]) == (0, 255)


def test_colours_of_16_bits_are_read_to_the_last_bit(tmp_path):
    values = np.arange(64 * 96 * 3).reshape(64, 96, 3) % 4096  # 12 bits: the upper byte is 0..15
    write_png16(tmp_path / "0.png", values)
    with pytest.warns(UserWarning, match=r"16 bits: 0..4095, the range of all 1"):
        images = Images(tmp_path, "RGB")
    np.testing.assert_allclose(np.asarray(images.read(0)), values * 255 / 4095, atol=0.51)


def test_other_sizes_and_depths_in_a_folder_are_refused_by_name(tmp_path):
    put(tmp_path / "a", names(3))
    Image.fromarray(picture().astype(np.uint16)).save(tmp_path / "a" / "001.png")
    with pytest.raises(
        SettingError, match=r"001.png: 96 x 64 pixels of 16 bits, but 000.png has .*8"
    ):
        Images(tmp_path / "a", "L")
    put(tmp_path / "b", names(3))
    Image.fromarray(picture()[:, :90]).save(tmp_path / "b" / "002.png")
    with pytest.raises(SettingError, match=r"002.png: 90 x 64 pixels of 8 bits, but"):
        Images(tmp_path / "b", "L")


@pytest.mark.parametrize("value", [np.uint8(7), np.uint16(21000), np.float32(0.5)])
def test_images_of_one_colour_are_refused(tmp_path, value):
    put(tmp_path, ["0.tif", "1.tif"], lambda _: np.full((8, 8), value))
    with pytest.raises(SettingError, match=rf"every pixel looked at is {value:g}; expected images"):
        Images(tmp_path, "L")


def test_an_empty_first_frame_is_no_reason_to_refuse(tmp_path):
    put(tmp_path, names(3), lambda i: picture(i) * (i > 0))
    assert np.asarray(Images(tmp_path, "L").read(0)).max() == 0


# --- form -----------------------------------------------------------------------------------------


def test_palettes_transparency_and_two_colours_become_what_one_sees(tmp_path):
    colors = colored(0)
    colors[..., 2] = 10
    image = Image.fromarray(colors)
    clear = image.copy()
    clear.putalpha(Image.fromarray(picture()))
    for name, kind, match in (
        ("p", image.quantize(4), None),
        ("rgba", clear, "0.png: its transparency is left out"),
        ("cmyk", image.convert("CMYK"), None),
    ):
        folder = tmp_path / name
        folder.mkdir()
        kind.save(folder / f"0.{'tif' if name == 'cmyk' else 'png'}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read = Images(folder, "RGB").read(0)
        assert [str(w.message).split("/")[-1] for w in caught] == ([match] if match else [])
        np.testing.assert_allclose(np.asarray(read), colors, atol=2)
    (tmp_path / "one").mkdir()
    Image.fromarray(picture() > 100).save(tmp_path / "one" / "0.png")
    assert np.unique(np.asarray(Images(tmp_path / "one", "L").read(0))).tolist() == [0, 255]


def test_false_colours_of_thermal_images_are_told_and_gray_ones_are_fine(tmp_path):
    put(tmp_path / "gray", ["0.jpg"], colored, quality=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Images(tmp_path / "gray", "L")
    put(
        tmp_path / "false",
        ["0.png"],
        lambda i: np.stack([picture(i), 255 - picture(i)] * 2)[:3].transpose(1, 2, 0),
    )
    with pytest.warns(UserWarning, match=r"0.png: thermal images in false colours"):
        Images(tmp_path / "false", "L")
    for false in range(3):  # the first, the middle or the last alone
        hues = [picture(), 255 - picture(), picture()]
        tinted = np.stack(hues, axis=-1)
        folder = tmp_path / str(false)
        put(
            folder,
            names(3),
            lambda i, false=false, tinted=tinted: tinted if i == false else colored(i),
        )
        with pytest.warns(UserWarning, match=rf"00{false}.png: thermal images in false colours"):
            Images(folder, "L")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_images_that_lie_on_their_side_are_turned(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    upright = Image.fromarray(picture())
    upright.transpose(Image.Transpose.ROTATE_90).convert("RGB").save(
        tmp_path / f"0.{ending}", exif=exif
    )
    images = Images(tmp_path, "L")
    assert images.size == (96, 64)
    np.testing.assert_allclose(np.asarray(images.read(0))[22:36, 13:25], 220, atol=25)


def test_a_turn_that_is_told_behind_the_pixels_is_not_passed_over(tmp_path):
    put(tmp_path, names(2))
    exif = Image.Exif()
    exif[0x0112] = 6
    told = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for name in ("001.png", "000.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-12] + told + whole[-12:])
        if name == "001.png":
            with pytest.raises(SettingError, match=r"001.png: 64 x 96 .* 000.png has 96 x 64"):
                Images(tmp_path, "L")
    images = Images(tmp_path, "L")
    assert images.size == images.read(1).size == (64, 96)


def test_an_image_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    put(tmp_path, names(2))
    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(PermissionError, match=r"000.png"):
        Images(tmp_path, "L")


def test_damaged_and_many_paged_files_are_named(tmp_path):
    put(tmp_path / "a", [f"{i}.jpg" for i in range(4)])
    whole = (tmp_path / "a" / "1.jpg").read_bytes()
    (tmp_path / "a" / "1.jpg").write_bytes(whole[: -len(whole) // 10])
    images = Images(tmp_path / "a", "L")  # its header is whole
    with pytest.raises(GmmtError, match=r"1.jpg: cannot be read as an image .*; copy it again"):
        images.read(1)
    (tmp_path / "a" / "1.jpg").write_bytes(b"")
    with pytest.raises(GmmtError, match=r"1.jpg: cannot be read as an image"):
        Images(tmp_path / "a", "L")
    pages = [Image.fromarray(picture(i)) for i in range(3)]
    (tmp_path / "b").mkdir()
    pages[0].save(tmp_path / "b" / "0.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(SettingError, match=r"0.tif: 3 images; expected one a file"):
        Images(tmp_path / "b", "L")
