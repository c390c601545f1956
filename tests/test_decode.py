"""Images of data sets as pixels: simplejpeg beside Pillow, every form of file, and damaged ones."""

import io

import numpy as np
import pytest
from PIL import Image

from gmmt.data import decode
from gmmt.data.decode import image_size, read_image
from gmmt.errors import GmmtError

H, W = 61, 83  # not multiples of 2, 4, 8

needs_both = pytest.mark.skipif(decode.simplejpeg is None, reason="simplejpeg is not installed")
either = pytest.mark.parametrize(
    "library", [pytest.param("simplejpeg", marks=needs_both), "pillow"]
)


@pytest.fixture
def choose(monkeypatch):
    """choose("pillow"): reads as where simplejpeg is not installed."""
    have = decode.simplejpeg
    return lambda name: monkeypatch.setattr(
        decode, "simplejpeg", have if name != "pillow" else None
    )


def picture():
    """A smooth picture [H, W, 3] with a patch of noise."""
    y, x = np.mgrid[:H, :W]
    pixels = np.stack([x * 2 + y, 255 - x * 2, 128 + 100 * np.sin(y / 9)], axis=-1)
    pixels[20:40, 20:50] += np.random.default_rng(0).normal(0, 40, (20, 30, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(image=None, **options):
    """The bytes of a JPEG file."""
    file = io.BytesIO()
    image = Image.fromarray(picture()) if image is None else image
    image.save(file, "JPEG", **{"quality": 92, **options})
    return file.getvalue()


def put(tmp_path, data, name="v000.jpg"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


FORMS = {
    "4:2:0": lambda: jpeg(subsampling=2),
    "4:2:2": lambda: jpeg(subsampling=1),
    "4:4:4": lambda: jpeg(subsampling=0),
    "progressive": lambda: jpeg(progressive=True),
    "restarts": lambda: jpeg(restart_marker_blocks=2),
    "RGB": lambda: jpeg(keep_rgb=True),
    "gray": lambda: jpeg(Image.fromarray(picture()).convert("L")),
    "CMYK": lambda: jpeg(Image.fromarray(picture()).convert("CMYK")),
}


@needs_both
@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("form", FORMS)
def test_both_libraries_give_the_same_pixels(tmp_path, choose, form, mode, shrink):
    path = put(tmp_path, FORMS[form]())
    choose("simplejpeg")
    one = read_image(path, mode, shrink)
    choose("pillow")
    other = read_image(path, mode, shrink)
    assert one.dtype == other.dtype == np.uint8
    assert one.shape == (-(-H // shrink), -(-W // shrink), *((3,) if mode == "RGB" else ()))
    np.testing.assert_array_equal(one, other)


@needs_both
def test_jpeg_goes_through_simplejpeg(tmp_path, choose, monkeypatch):
    choose("simplejpeg")
    monkeypatch.setattr(decode, "_any", None)  # Pillow's way would fail
    read_image(put(tmp_path, jpeg()), "RGB")
    read_image(put(tmp_path, jpeg()), "L")


@either
@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_those_that_were_written(tmp_path, choose, library, form):
    choose(library)
    path = put(tmp_path, FORMS[form]())
    wanted = Image.fromarray(picture())
    gray = np.asarray(wanted.convert("L"), float)
    if form == "gray":
        wanted = wanted.convert("L").convert("RGB")
    assert np.abs(read_image(path, "RGB") - np.asarray(wanted, float)).mean() < 6
    assert np.abs(read_image(path, "L") - gray).mean() < 3
    assert image_size(path) == (W, H)


@either
def test_gray_of_a_colour_jpeg_is_its_luma(tmp_path, choose, library):
    """Y is stored: it is not computed from the colours, which 4:2:0 blurs and cuts to 0..255."""
    choose(library)
    path = put(tmp_path, jpeg())
    with Image.open(path) as image:
        image.draft("YCbCr", None)
        luma = np.asarray(image)[..., 0]
    np.testing.assert_array_equal(read_image(path, "L"), luma)


@either
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_a_jpeg_at_a_part_of_its_size_shows_the_means_of_blocks(tmp_path, choose, library, shrink):
    choose(library)
    path = put(tmp_path, jpeg(subsampling=0, quality=98))
    whole, small = read_image(path, "RGB").astype(float), read_image(path, "RGB", shrink)
    h, w = H // shrink, W // shrink
    blocks = whole[: h * shrink, : w * shrink].reshape(h, shrink, w, shrink, 3).mean((1, 3))
    assert np.abs(small[:h, :w] - blocks).mean() < 3


# --- other formats --------------------------------------------------------------------------------


def palette():
    return Image.fromarray(picture()).quantize(64)


@pytest.mark.parametrize(
    ("name", "make", "exact"),
    [
        ("a.png", lambda: Image.fromarray(picture()), True),
        ("a.bmp", lambda: Image.fromarray(picture()), True),
        ("a.png", lambda: Image.fromarray(picture()).convert("L"), False),
        ("a.bmp", lambda: Image.fromarray(picture()).convert("L"), False),
        ("a.png", palette, False),
        ("a.png", lambda: Image.fromarray(picture()).convert("LA"), False),
    ],
    ids=["png", "bmp", "gray png", "gray bmp", "palette", "gray with alpha"],
)
def test_other_formats(tmp_path, name, make, exact):
    image = make()
    image.save(tmp_path / name)
    colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / name, "RGB"), colors)
    luma = colors @ [0.299, 0.587, 0.114]
    assert np.abs(read_image(tmp_path / name, "L") - luma).max() <= 0.51
    assert exact == np.array_equal(colors, picture())
    assert image_size(tmp_path / name) == (W, H)


def test_transparency_is_left_out(tmp_path):
    """As OpenCV does: the colours that are stored below it, whatever it hides."""
    hidden = np.dstack([picture(), np.zeros((H, W), np.uint8)])
    Image.fromarray(hidden).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", "RGB"), picture())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_formats_shrink_by_means_of_blocks(tmp_path, mode):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png", mode).astype(float)
    small = read_image(tmp_path / "a.png", mode, 4)
    assert small.shape[:2] == (16, 21)
    for y, x in ((0, 0), (7, 10), (15, 20)):  # the last block has fewer pixels
        block = whole[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((0, 1))
        assert np.abs(small[y, x] - block).max() < 1


# --- turned images --------------------------------------------------------------------------------

TURNS = {  # EXIF orientation -> what it does to pixels as they are stored
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: np.rot90,
}


@either
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_exif_says(tmp_path, choose, library, orientation, mode):
    choose(library)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = read_image(put(tmp_path, jpeg(), "plain.jpg"), mode)
    path = put(tmp_path, jpeg(exif=exif))
    turned = read_image(path, mode)
    np.testing.assert_array_equal(turned, TURNS[orientation](stored))
    assert image_size(path) == turned.shape[1::-1]


# --- damaged and unfit files ----------------------------------------------------------------------


def halved(data):
    return data[: len(data) // 2]


def blanked(data):
    """The length is right and the end is missing: a copy that broke off, on many disks."""
    return halved(data) + bytes(len(data) - len(data) // 2)


@either
@pytest.mark.parametrize("shrink", [1, 4])
@pytest.mark.parametrize(
    "damage",
    [halved, blanked, lambda d: d[:-2], lambda d: d[:100], lambda d: b"", lambda d: b"no image"],
    ids=["half", "blanked half", "no end", "head alone", "empty", "text"],
)
@pytest.mark.parametrize("form", ["4:2:0", "4:4:4", "gray", "progressive", "CMYK"])
def test_damaged_files_are_named(tmp_path, choose, library, form, damage, shrink):
    choose(library)
    path = put(tmp_path, damage(FORMS[form]()), "v000018.jpg")
    for mode in ("RGB", "L"):
        with pytest.raises(GmmtError, match=r"v000018\.jpg: cannot be read .*; copy it again$"):
            read_image(path, mode, shrink)


@needs_both
def test_damage_inside_of_a_file_is_seen(tmp_path):
    """Pillow does not tell of it: one more reason for simplejpeg."""
    data = jpeg()
    middle = len(data) // 2
    path = put(tmp_path, data[:middle] + bytes(300) + data[middle + 300 :])
    with pytest.raises(GmmtError, match=r"v000\.jpg: cannot be read .*Corrupt JPEG data"):
        read_image(path, "RGB")


def test_a_damaged_png_and_a_missing_file_are_named(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    put(tmp_path, halved((tmp_path / "a.png").read_bytes()), "b.png")
    with pytest.raises(GmmtError, match=r"b\.png: cannot be read as an image .*copy it again"):
        read_image(tmp_path / "b.png", "RGB")
    for read in (lambda p: read_image(p, "RGB"), image_size):
        with pytest.raises(GmmtError, match=r"none\.jpg: cannot be read .*No such file"):
            read(tmp_path / "none.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_deep_images_are_refused(tmp_path, mode):
    Image.fromarray(picture()[..., 0].astype(np.uint16) * 200).save(tmp_path / "depth.png")
    with pytest.raises(GmmtError, match=r"depth\.png: an image of 16 bits; expected 8"):
        read_image(tmp_path / "depth.png", mode)
    assert image_size(tmp_path / "depth.png") == (W, H)


@either
def test_what_follows_a_jpeg_does_not_matter(tmp_path, choose, library):
    choose(library)
    plain, padded = put(tmp_path, jpeg(), "a.jpg"), put(tmp_path, jpeg() + bytes(99), "b.jpg")
    np.testing.assert_array_equal(read_image(padded, "RGB"), read_image(plain, "RGB"))
