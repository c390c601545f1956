"""One image of a data set as uint8 pixels, as OpenCV's imread reads it for the official trackers.

JPEG goes through simplejpeg (the extra `fast`) where that is installed, which gives the same pixels
as Pillow a fifth faster. And it tells of every damage that the decoder meets, as Pillow does not:
there only files whose end is missing are seen.
"""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gmmt.data.images import depth_of, header
from gmmt.errors import GmmtError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


def image_size(path: Path) -> tuple[int, int]:
    """Returns (width, height) of an image as `read_image` reads it, from its header alone.

    GmmtError, with the file: it is no image.
    """
    return header(path)[0]


def read_image(path: Path, mode: str, shrink: int = 1) -> np.ndarray:
    """Returns an image upright (as EXIF says), uint8 [H, W, 3] in mode "RGB", [H, W] in "L".

    It is read at 1/`shrink` (1, 2, 4, 8) of its size, rounded up: a JPEG by the scaling of its own
    transform, others by means of blocks. "L" of a colour image is its luma; transparency is left
    out. GmmtError, with the file: it is damaged, no image, or has more than 8 bits.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if depth_of(image) != "8 bits":
                raise GmmtError(f"{path}: an image of {depth_of(image)}; expected 8. Convert it")
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            plain_jpeg = image.format == "JPEG" and image.mode in ("L", "RGB") and upright
            if simplejpeg and plain_jpeg:
                return _fast(data, image.size, mode, shrink)
            return _any(image, data, mode, shrink)
    except GmmtError:
        raise
    except Exception as error:  # a file can be damaged in every way
        why = "no known form" if isinstance(error, UnidentifiedImageError) else error
        raise GmmtError(f"{path}: cannot be read as an image ({why}); copy it again") from None


def _fast(data: bytes, size: tuple[int, int], mode: str, shrink: int) -> np.ndarray:
    """A gray or colour JPEG by simplejpeg, which raises ValueError on any damage."""
    width, height = (-(-side // shrink) for side in size)
    space = {"RGB": "RGB", "L": "GRAY"}[mode]
    pixels = simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width)
    return pixels[..., 0] if mode == "L" else pixels


def _any(image: Image.Image, data: bytes, mode: str, shrink: int) -> np.ndarray:
    """Any image by Pillow, which takes a JPEG's missing end for gray if zeros stand there."""
    if image.format == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("its end is missing")
    whole = image.size
    image.draft(mode, tuple(max(1, side // shrink) for side in whole))  # does nothing but for JPEG
    shrink = shrink if image.size == whole else 1
    image = ImageOps.exif_transpose(image).convert(mode)
    return np.array(image.reduce(shrink) if shrink > 1 else image)
