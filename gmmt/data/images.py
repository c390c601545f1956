"""The images of one camera, whatever their depth and form, read as 8 bits."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from gmmt.data.image_folders import in_order
from gmmt.errors import GmmtError, SettingError

SAMPLE = 200  # frames, evenly spread, in which the range of deep images is looked for
FALSE_COLORS = 8  # mean difference of an image's channels; JPEG makes fewer of equal ones
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
DEEP = re.compile(r"(?<!BGR);16[BLN]?S?$")  # Pillow's names of 16 bits; BGR;16 has 5 or 6 each
DEEP_COLORS = re.compile(r"RGB[AX]?;16[BLN]")  # those of colours that are read


class Images:
    """The images of one camera, in order, read as 8 bits in `mode`: "RGB", or "L" for gray.

    Deeper images (16 and 32 bits, fractions) are brought to 0..255 by one linear range for all of
    them, which a warning tells, as it does of false colours and of transparency.
    GmmtError, with the file: it cannot be read, has another size or depth than the first, or all
    are of one colour.
    """

    def __init__(self, folder: Path, mode: str):
        self.folder, self.mode = folder, mode
        self.files, self.numbers = in_order(folder)
        self.size, self.depth = _header(self.files[0])  # (width, height); "8 bits", ...
        for path in self.files[1:]:
            self._check(path, *_header(path))
        self.range: tuple[float, float] | None = None  # what becomes 0 and 255
        if self.depth != "8 bits":
            self.range = self._find_range()
        self._check_first()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> Image.Image:
        """Image i."""
        image = self._upright(i)
        if self.mode == "L" and image.mode in ("1", "LA"):
            return image.convert("L")
        return image if image.mode == self.mode else _colors(image).convert(self.mode)

    def _upright(self, i: int) -> Image.Image:
        path = self.files[i]
        if self.range is None:
            with _opened(path) as opened:
                image = ImageOps.exif_transpose(opened)
                image.load()
        else:
            low, high = self.range
            values = (_deep_values(path) - low) * (255 / (high - low))
            values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
            image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
        self._check(path, image.size, self.depth)
        return image

    def _check(self, path: Path, size: tuple[int, int], depth: str) -> None:
        if (size, depth) != (self.size, self.depth):
            raise SettingError(
                f"{path}: {size[0]} x {size[1]} pixels of {depth}, but {self.files[0].name} has "
                f"{self.size[0]} x {self.size[1]} of {self.depth}; expected one size and depth in "
                "a folder. Convert them"
            )

    def _sample(self) -> np.ndarray:
        return np.unique(np.linspace(0, len(self) - 1, SAMPLE).round().astype(int))

    def _find_range(self) -> tuple[float, float]:
        low, high, every, holes = np.inf, -np.inf, self._sample(), 0
        for i in every:
            values = _deep_values(self.files[i])
            finite = values[np.isfinite(values)]
            holes += values.size - finite.size
            low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
        if not low < high:
            raise SettingError(
                f"{self.folder}: every pixel looked at is {low:g}; expected images of a scene"
            )
        seen = "all" if len(every) == len(self) else f"{len(every)} of the"
        lost = f"; {holes} pixels that are NaN or infinite became 0 or 255" if holes else ""
        warnings.warn(
            f"{self.folder}: the images have {self.depth}: {low:g}..{high:g}, the range of {seen} "
            f"{len(self)} frames, became 0..255{lost}",
            stacklevel=4,
        )
        return float(low), float(high)

    def _check_first(self) -> None:
        # The first frame tells, unless it is empty, as while a camera starts.
        low, high = 255, 0
        for i in self._sample():
            values = np.asarray(self.read(i))
            low, high = min(low, values.min()), max(high, values.max())
            if low < high:
                break
        else:
            raise SettingError(
                f"{self.folder}: every pixel looked at is {low}; expected images of a scene"
            )
        image = self._upright(i)
        if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
            warnings.warn(f"{self.files[i]}: its transparency is left out", stacklevel=4)
        spread = np.ptp(np.asarray(_colors(image), np.int16), axis=2).mean()
        if self.mode == "L" and spread > FALSE_COLORS:
            warnings.warn(
                f"{self.files[i]}: thermal images in false colours; their brightness is "
                "read, which need not be that of the scene. Gray ones are better",
                stacklevel=4,
            )


def _colors(image: Image.Image) -> Image.Image:
    """An 8-bit image in RGB, as its palette has it, without transparency."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image; GmmtError, with its name, if it cannot be opened, or read in the block."""
    try:
        with Image.open(path) as image:
            yield image
    except GmmtError:
        raise
    except Exception as error:  # a file can be damaged in every way
        raise GmmtError(f"{path}: cannot be read as an image ({error}); copy it again") from None


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and depth of an image as it is read, without its pixels."""
    with _opened(path) as image:
        width, height = image.size
        # Of the class itself: PNG's own getexif reads all pixels. TIFF is turned by Pillow.
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        if turn in SIDEWAYS and image.format != "TIFF":
            width, height = height, width
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # photos with a preview
            raise SettingError(
                f"{path}: {image.n_frames} images; expected one a file. Write a file for each"
            )
        return (width, height), _depth(image)


def _rawmode(image: Image.Image) -> str:
    """How an image that is not yet read lies in its file, in Pillow's words; "" if not told."""
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str(args[0])


def _depth(image: Image.Image) -> str:
    raw = _rawmode(image)
    if image.mode.startswith("I;16") or DEEP.search(raw):
        return "16 bits"
    return "32 bits" if image.mode in ("I", "F") else "8 bits"


def _deep_values(path: Path) -> np.ndarray:
    """The values of an image of more than 8 bits, float64 [h, w], or [h, w, 3] of colours."""
    with _opened(path) as image:
        raw = _rawmode(image)
        values = np.asarray(ImageOps.exif_transpose(image)).astype(np.float64)
        if values.ndim == 2:
            return values
        if not DEEP_COLORS.fullmatch(raw):
            raise SettingError(
                f"{path}: 16 bits as {raw}; expected gray, or RGB with or without alpha. Convert it"
            )
    # Of 16-bit colours Pillow keeps the upper byte. Told that the two lie in the other order, it
    # gives the lower.
    little = raw.endswith("L") or (raw.endswith("N") and sys.byteorder == "little")
    other = raw[:-1] + ("B" if little else "L")
    with _opened(path) as image:
        for k, tile in enumerate(image.tile):
            args = other if isinstance(tile.args, str) else (other, *tile.args[1:])
            image.tile[k] = tile._replace(args=args)
        lower = np.asarray(ImageOps.exif_transpose(image))
    return (256 * values + lower)[..., :3]
