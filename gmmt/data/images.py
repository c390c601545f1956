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
PIXELS = 20000  # of each, evenly spread, that tell where most values lie
FEW_LEVELS = 16  # of 256, in which nine tenths of the pixels show too little
FALSE_COLORS = 8  # mean difference of an image's channels; JPEG makes fewer of equal ones
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
DEEP = re.compile(r"(?<!BGR);16[BLN]?S?$")  # Pillow's names of 16 bits; BGR;16 has 5 or 6 each
DEEP_COLORS = re.compile(r"RGB[AX]?;16[BLN]")  # those of colours that are read


class Images:
    """The images of one camera, in order, read as 8 bits in `mode`: "RGB", or "L" for gray.

    Deeper images (16 and 32 bits, fractions) are brought to 0..255 by one linear range for all of
    them, which a warning tells, as it does of false colours and of transparency. Values far from
    the others are left out of the range: dead or hot pixels, or a number for "no data".
    GmmtError, with the file: it cannot be read, has another size or depth than the first, or all
    are of one colour.
    """

    def __init__(self, folder: Path, mode: str):
        self.folder, self.mode = folder, mode
        self.files, self.numbers = in_order(folder)
        self.size, self.depth = header(self.files[0])  # (width, height); "8 bits", ...
        for path in self.files[1:]:
            self._check(path, *header(path))
        self.range: tuple[float, float] | None = None  # what becomes 0 and 255
        if self.depth != "8 bits":
            self.range = self._find_range()
        self._check_some()

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
        low, high, every, holes, parts = np.inf, -np.inf, self._sample(), 0, []
        for i in every:
            values = _deep_values(self.files[i])
            finite = values[np.isfinite(values)]
            holes += values.size - finite.size
            low, high = min(low, finite.min(initial=low)), max(high, finite.max(initial=high))
            parts.append(finite[:: finite.size // PIXELS + 1])
        if not low < high:
            raise SettingError(
                f"{self.folder}: every pixel looked at is {low:g}; expected images of a scene"
            )
        seen = "all" if len(every) == len(self) else f"{len(every)} of the"
        words = f"the range of {seen} {len(self)} frames, became 0..255"
        # A small target may be hotter than all else: it keeps as much room as the scene has.
        values = np.concatenate(parts)
        first, last = np.percentile(values, (0.1, 99.9))
        if first < last and high - low > 3 * (last - first):
            words += f"; a few values beyond it ({low:g}..{high:g}) are cut off"
            low, high = max(low, 2 * first - last), min(high, 2 * last - first)
        if holes:
            words += f"; {holes} pixels that are NaN or infinite became 0 or 255"
        counts = np.sort(np.histogram(values.clip(low, high), 256, (low, high))[0])[::-1]
        levels = 1 + int((counts.cumsum() < 0.9 * counts.sum()).sum())
        if levels < FEW_LEVELS:
            words += f"; 90 % of the pixels have only {levels} of these levels. If some values "
            words += "stand for no data, write others in their place"
        words = f"the images have {self.depth}: {low:g}..{high:g}, {words}"
        warnings.warn(f"{self.folder}: {words}", stacklevel=4)
        return float(low), float(high)

    def _check_some(self) -> None:
        # The first frame may be empty, as while a camera starts. Of false colours and transparency
        # it tells nothing of those that were made later.
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
        clear = false = None
        for k in sorted({i, len(self) // 2, len(self) - 1}, reverse=True):
            image = self._upright(k)
            if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
                clear = self.files[k]
            spread = np.ptp(np.asarray(_colors(image), np.int16), axis=2).mean()
            if self.mode == "L" and spread > FALSE_COLORS:
                false = self.files[k]
        if clear:
            warnings.warn(f"{clear}: its transparency is left out", stacklevel=4)
        if false:
            warnings.warn(
                f"{false}: thermal images in false colours; their brightness is read, which need "
                "not be that of the scene. Gray ones are better",
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
    except (GmmtError, PermissionError):
        raise
    except Exception as error:  # a file can be damaged in every way
        raise GmmtError(f"{path}: cannot be read as an image ({error}); copy it again") from None


def header(path: Path) -> tuple[tuple[int, int], str]:
    """(width, height) and depth of an image as it is read, without its pixels."""
    with _opened(path) as image:
        (width, height), depth = image.size, depth_of(image)
        # PNG's own getexif reads all pixels, behind which it may stand. TIFF is turned by Pillow.
        behind = image.format == "PNG" and b"eXIf" in _end(path)
        exif = image.getexif() if behind else Image.Image.getexif(image)
        turn = exif.get(ExifTags.Base.Orientation, 1)
        if turn in SIDEWAYS and image.format != "TIFF":
            width, height = height, width
        if depth != "8 bits" and image.format == "TIFF" and image.tag_v2.get(262) == 0:
            raise SettingError(
                f"{path}: {depth} in which 0 is white; expected 0 as black. Convert it"
            )
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # photos with a preview
            raise SettingError(
                f"{path}: {image.n_frames} images; expected one a file. Write a file for each"
            )
        return (width, height), depth


def _end(path: Path) -> bytes:
    """The last 64 KiB of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return file.read()


def _rawmode(image: Image.Image) -> str:
    """How an image that is not yet read lies in its file, in Pillow's words; "" if not told."""
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else str(args[0])


def depth_of(image: Image.Image) -> str:
    raw = _rawmode(image)
    if image.format == "PPM" and image.tile[0].args[0] == "RGB" and image.tile[0].args[1] > 255:
        return "16 bits"  # of which Pillow would keep 8
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
                f"{path}: {image.format} of 16 bits as {raw}; expected gray without alpha, or RGB "
                "of PNG or TIFF. Convert it"
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
