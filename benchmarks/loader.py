"""Training items a second from JPEG files of 640 x 480, in 1 and 2 worker processes, beside a
loader in OSTrack's manner; and on what the time is spent.

    python -m benchmarks.loader [--quick] [--rounds N]

An item is a search crop of 256 x 256 pixels with its template of 128 x 128, of two modalities: four
images are decoded for each. Both loaders take turns, and a ratio is of one round, because machines
drift.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, TEMPLATE, SEARCH, BATCH = 640, 480, 128, 256, 32
RATE_BOUND, RATIO_BOUND = 400, 0.8
"""Search crops a second of two workers; our time in shares of the yardstick's."""


def main(argv: Sequence[str] = ()) -> None:
    """Prints the parts of an item's time, then both loaders' rates."""
    import torch

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="few items, for a try in seconds")
    parser.add_argument(
        "--rounds", type=int, default=5, help="times that each thing is measured (default 5)"
    )
    options = parser.parse_args(argv)
    steps, batch = (2, 4) if options.quick else (12, BATCH)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sequences = write(Path(folder), n=3, length=24)
        parts(sequences, options.rounds)
        loaders(sequences, steps, batch, options.rounds)


# --- the data -------------------------------------------------------------------------------------


def write(folder: Path, n: int, length: int) -> list:
    """Returns sequences on a disk, in which a window moves over a photograph; the thermal images
    are gray, and as most cameras do it stored in three channels.
    """
    from PIL import Image
    from skimage import data

    from gmmt.data.datasets import Frames
    from gmmt.data.sequence import Sequence

    sequences, bytes_of = [], {"rgb": [], "tir": []}
    photographs = [data.astronaut(), data.coffee(), data.chelsea()]
    heat = Image.fromarray(data.camera()).resize((WIDTH + 50, HEIGHT + 50))
    for k in range(n):
        color = Image.fromarray(photographs[k % 3]).resize((WIDTH + 50, HEIGHT + 50))
        names = np.array([f"{i:06d}.jpg".encode() for i in range(length)])
        folders = folder / f"{k}" / "visible", folder / f"{k}" / "infrared"
        for name, image, place in zip(bytes_of, (color, heat.convert("RGB")), folders, strict=True):
            place.mkdir(parents=True)
            for i in range(length):
                window = image.crop((2 * i, i, 2 * i + WIDTH, i + HEIGHT))
                window.save(place / f"{i:06d}.jpg", quality=92, subsampling=2)
                bytes_of[name].append((place / f"{i:06d}.jpg").stat().st_size)
        # The median size of LasHeR's targets in training is 69 pixels.
        side = np.exp(np.random.default_rng(k).normal(np.log(69), 0.5, (length, 2)))
        boxes = np.concatenate([np.tile([280.0, 200.0], (length, 1)), side], axis=1)
        frame = Frames(folders, (names, names), (HEIGHT, WIDTH))
        sequences.append(Sequence(f"{k}", boxes, frame, (HEIGHT, WIDTH)))
    rgb, tir = (np.mean(sizes) / 1024 for sizes in bytes_of.values())
    print(
        f"JPEG of {WIDTH} x {HEIGHT}, quality 92, 4:2:0: RGB {rgb:.0f} KB, thermal {tir:.0f} KB "
        f"on average; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    return sequences


# --- ours, part by part ---------------------------------------------------------------------------


def settings(workers: int) -> tuple:
    """Returns OSTrack's crop rule and its way to draw."""
    from gmmt.config import Data
    from gmmt.data.crops import CropRule, area_side

    crops = CropRule(TEMPLATE, SEARCH, area_side, fill=0.0, whole_pixels="ostrack")
    jitter = {"template_shift": 0.0, "template_scale": 0.0, "search_shift": 3.0}
    return crops, Data(search_scale=0.25, workers=workers, **jitter)


def parts(sequences: list, rounds: int) -> None:
    """Prints how long each part of an item takes in one process."""
    import torch

    from gmmt.data import decode
    from gmmt.data.augment import cut_square
    from gmmt.data.samples import Samples

    library = "simplejpeg" if decode.simplejpeg else "Pillow"
    frame, samples = sequences[0].frame, Samples(sequences, *settings(0))
    visible, infrared = frame.path(0, 5), frame.path(1, 5)
    whole, crop = frame(5), torch.rand(4, SEARCH, SEARCH) * 255
    sent = crop.round().to(torch.uint8).expand(BATCH, -1, -1, -1).contiguous()
    numbers = itertools.count()

    def search_crop() -> torch.Tensor:
        return cut_square(frame(5), 180, 80, 276, SEARCH, 0.0).round().to(torch.uint8)

    works = {
        f"read and decode RGB ({library})": lambda: decode.read_image(visible, "RGB"),
        "  at half of its size": lambda: decode.read_image(visible, "RGB", 2),
        "read and decode thermal, luma alone": lambda: decode.read_image(infrared, "L"),
        "  as RGB": lambda: decode.read_image(infrared, "RGB"),
        "a frame: both, put together": lambda: frame(5),
        "cut a search crop from 276 x 276": lambda: cut_square(whole, 180, 80, 276, SEARCH, 0.0),
        "cut a template from 138 x 138": lambda: cut_square(whole, 250, 150, 138, TEMPLATE, 0.0),
        "round a search crop to bytes": lambda: crop.round().to(torch.uint8),
        f"{BATCH} search crops to floats, if there's no GPU": sent.float,
        "a search crop: a frame, cut, as bytes": search_crop,
        "an item: two frames, drawn, cut, changed": lambda: samples.item((0,), next(numbers)),
    }
    taken = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            taken[name].append(seconds_of(work))
    print(f"\nms of one core, n = {rounds}")
    for name, spent in taken.items():
        print(f"  {name:44s} {1e3 * statistics.median(spent[1:]):6.2f}")
    every = np.array(list(taken.values()))[:, 1:]
    decoding, crop, item = every[0] + every[2], every[-2], every[-1]
    print(
        f"so one core gives {1 / np.median(crop):.0f} search crops a second, of whose time "
        f"decoding is {np.median(decoding / crop):.0%}, or {1 / np.median(item):.0f} items "
        f"({np.median(2 * decoding / item):.0%})"
    )


def seconds_of(work: Callable, times: int = 20) -> float:
    """Returns the time that one call takes of this process, whatever else the machine does."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


# --- in OSTrack's manner --------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """Items as OSTrack's loader makes them: both images decoded as three channels, joined, padded,
    cut, resized, and turned to floats, item by item.
    """

    sequences: list

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, k: int):
        import torch

        rng = np.random.default_rng(k)
        video = self.sequences[rng.integers(len(self.sequences))]
        answer = []
        for size, factor, shift in ((TEMPLATE, 2, 0), (SEARCH, 4, 3)):
            i = rng.integers(len(video))
            image = np.concatenate([read_whole(video.frame.path(m, i)) for m in (0, 1)], axis=2)
            x, y, w, h = video.boxes[i]
            root = np.sqrt(w * h)
            side = int(np.ceil(root * factor))
            moved = root * shift * (rng.random(2) - 0.5)
            left = round(x + w / 2 + moved[0] - side / 2)
            top = round(y + h / 2 + moved[1] - side / 2)
            crop = resized(padded(image, left, top, side), size)
            answer.append(torch.from_numpy(crop).permute(2, 0, 1).float() / 255)
        return *answer, torch.tensor([0.3, 0.3, 0.6, 0.6])


def opencv():
    """Returns OpenCV, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(0)
    return cv2


def read_whole(path: Path) -> np.ndarray:
    if cv2 := opencv():
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def padded(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    x1, y1 = max(0, -left), max(0, -top)
    x2, y2 = max(left + side - width, 0), max(top + side - height, 0)
    part = image[top + y1 : top + side - y2, left + x1 : left + side - x2]
    if cv2 := opencv():
        return cv2.copyMakeBorder(part, y1, y2, x1, x2, cv2.BORDER_CONSTANT)
    return np.pad(part, ((y1, y2), (x1, x2), (0, 0)))


def resized(crop: np.ndarray, size: int) -> np.ndarray:
    if cv2 := opencv():
        return cv2.resize(crop, (size, size))
    from PIL import Image

    halves = (Image.fromarray(crop[..., c : c + 3]) for c in (0, 3))
    return np.concatenate([np.asarray(half.resize((size, size), 2)) for half in halves], axis=2)


# --- both loaders ---------------------------------------------------------------------------------


def loaders(sequences: list, steps: int, batch: int, rounds: int) -> None:
    """Prints both loaders' rates with 1 and 2 workers, and the ratio of their times."""
    from torch.utils.data import DataLoader

    from gmmt.data.samples import Samples

    yardstick = f"OpenCV {opencv().__version__}" if opencv() else "Pillow"
    print(f"\nsearch crops a second, each with its template; {steps} batches of {batch}")
    for workers in (1, 2):
        # The device "meta" takes bytes and makes floats of them, at no cost, as a GPU does.
        samples = Samples(sequences, *settings(workers), "meta")
        taken: tuple[list, list] = ([], [])
        for _ in range(rounds):
            ours = samples.batches((0,), 0, 10**6, batch)
            taken[0].append(time_of(ours, steps))
            ours.close()
            theirs = iter(DataLoader(Whole(sequences), batch, num_workers=workers))
            taken[1].append(time_of(theirs, steps))
            del theirs
        rates = [batch * steps / statistics.median(spent) for spent in taken]
        ratio = statistics.median(a / b for a, b in zip(*taken, strict=True))
        bound = f" (bound {RATE_BOUND}: {kept(rates[0] >= RATE_BOUND)})" if workers == 2 else ""
        print(
            f"  {workers} workers: gmmt {rates[0]:4.0f}{bound}, OSTrack's manner with {yardstick} "
            f"{rates[1]:4.0f}; time {ratio:.2f} of it (bound {RATIO_BOUND}: "
            f"{kept(ratio <= RATIO_BOUND)}, n = {rounds})"
        )


def time_of(batches: Iterator, steps: int) -> float:
    """Returns the seconds that some batches take, once the workers run."""
    next(batches)
    start = time.perf_counter()
    for _ in range(steps):
        next(batches)
    return time.perf_counter() - start


def kept(is_kept: bool) -> str:
    return "kept" if is_kept else "NOT kept"


if __name__ == "__main__":
    main(sys.argv[1:])
