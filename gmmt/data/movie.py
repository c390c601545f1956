"""Films of a track: both cameras side by side, with the boxes that were found and the true ones.

An .mp4 needs the package imageio-ffmpeg, a .gif nothing more.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from gmmt.data.sequence import Sequence
from gmmt.errors import GmmtError, SettingError
from gmmt.files import check_writable

WIDTHS = {".mp4": 640, ".gif": 320}  # of each camera's picture, at most; a GIF is made in memory
RATE = 20  # frames a second
DASH = 4  # pixels
HEAD = 20  # pixels of the line of words


def check_movie(path: Path) -> None:
    """SettingError, before any work, if a film cannot be written to `path`."""
    if path.suffix.lower() not in WIDTHS:
        raise SettingError(f"--video {path}: expected a name that ends in .mp4 or .gif")
    if path.suffix.lower() == ".mp4":
        try:
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            raise SettingError(
                f"--video {path}: an .mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg (or "
                "'gmmt[video]'). A .gif needs nothing"
            ) from None
    check_writable(path, "name another place: --video FILE")


def write_movie(
    path: Path, video: Sequence, boxes: np.ndarray, name: str, color: str, first: int = 0
) -> None:
    """Writes a film of a video with boxes [n, 4] that `name` found, in a color, and with its own
    where it has some, dashed in white; `first` is the number of its first frame.

    GmmtError: it cannot be written.
    """
    pictures = _pictures(video, boxes, name, color, first, WIDTHS[path.suffix.lower()])
    # Its ending says what to write.
    temporary = path.absolute().with_name(f".{uuid.uuid4().hex}{path.suffix.lower()}")
    try:
        if path.suffix.lower() == ".gif":
            # Pillow's own choice of 256 colours would drop those of thin lines.
            few = (picture.quantize(256, Image.Quantize.FASTOCTREE) for picture in pictures)
            rest = {"append_images": few, "duration": 1000 // RATE, "loop": 0}
            next(few).save(temporary, save_all=True, **rest)
        else:
            _write_mp4(temporary, pictures, len(video))
        os.replace(temporary, path)
    except OSError as error:
        raise GmmtError(f"{path}: the film cannot be written ({error!s:.300})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_mp4(path: Path, pictures: Iterator[Image.Image], n: int) -> None:
    """OSError: the film does not hold all n pictures in the end. (write_frames does not say
    whether ffmpeg failed.)
    """
    import imageio_ffmpeg

    one = next(pictures)
    # Sides are even, as the format wants them; multiples of 16, its default, would stretch them.
    options = {"fps": RATE, "macro_block_size": 2, "ffmpeg_log_level": "error"}
    writer = imageio_ffmpeg.write_frames(str(path), one.size, **options)
    with contextlib.closing(writer):
        writer.send(None)
        writer.send(one.tobytes())
        for picture in pictures:
            writer.send(picture.tobytes())
    try:
        found, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError:
        found = 0
    if found != n:
        raise OSError(f"{found} of {n} frames can be read back; is the disk full?")


def _pictures(
    video: Sequence, boxes: np.ndarray, name: str, color: str, first: int, widest: int
) -> Iterator[Image.Image]:
    """The film's pictures: RGB on the left, thermal on the right, a line of words above."""
    (height, width), annotated = video.size, bool(np.isfinite(video.boxes[1:]).any())
    scale = min(1.0, widest / width)
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    for i in tqdm(range(len(video)), "film"):
        frame = video.frame(i)
        picture = Image.new("RGB", (2 * size[0], size[1] + HEAD))
        halves = (frame[:3].transpose(1, 2, 0), frame[3])
        for left, half in zip((0, size[0]), halves, strict=True):
            half = Image.fromarray(np.ascontiguousarray(half)).convert("RGB")
            half = half.resize(size, Image.Resampling.BOX)
            draw = ImageDraw.Draw(half)
            if np.isfinite(video.boxes[i]).all():
                _draw_dashed(draw, video.boxes[i] * scale)
            x, y, w, h = boxes[i] * scale
            draw.rectangle((x, y, x + w, y + h), outline=color, width=2)
            picture.paste(half, (left, HEAD))
        draw = ImageDraw.Draw(picture)
        words = ((4, f"frame {first + i}", "white"), (90, name, color), (180, "- - truth", "white"))
        for left, text, ink in words[: 3 if annotated else 2]:
            draw.text((left, 2), text, ink, font_size=14)
        yield picture


def _draw_dashed(draw: ImageDraw.ImageDraw, box: np.ndarray) -> None:
    """Draws a box in dashes, white and black in turn, which show on any picture."""
    x, y, w, h = box
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
    for start, end in pairwise(corners):
        pieces = max(1, round(float(np.abs(end - start).sum()) / DASH))
        ends = np.linspace(start, end, pieces + 1)
        for k in range(pieces):
            draw.line((*ends[k], *ends[k + 1]), fill="white" if k % 2 == 0 else "black", width=2)
