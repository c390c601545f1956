"""Miniature benchmarks: RGB-T video, drawn on the fly, in which targets move as real ones did.

`mini-rgbt` draws textured scenes from a seed; `roadscene-motion` puts the same motion, twins and
disturbances on real registered RGB / thermal pairs. The trajectories are real ground truth,
rescaled: LasHeR's training sequences for training, its test sequences for validation, RGBT234 for
test. Each split is fixed: scene k of a split is the same for everyone, and a seed varies training
only.

A scene is a stack of layers, far to near: background, twins, target, occluders, glare. Each layer
has a colour and a heat.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from gmmt.data.benchmarks import ground_truth, rgbt_folder
from gmmt.data.boxes import read_boxes
from gmmt.data.sequence import Sequence
from gmmt.errors import SettingError
from gmmt.files import data_dir

SIZE, CANVAS = 128, 256
Acts = Mapping[str, np.ndarray]  # attribute -> bool [n]
ATTRIBUTES: Mapping[str, str] = {
    "LI": "low illumination: RGB is dark",
    "HI": "high illumination: RGB is dazzled",
    "TC": "thermal crossover: the target is as warm as what is behind it",
    "CA": "camouflage: the target is coloured like what is behind it",
    "PO": "partial occlusion",
    "TO": "total occlusion",
    "SV": "scale variation",
    "FM": "fast motion: three frames' motion in one",
    "CM": "camera moving",
    "SN": "sensor noise in both modalities",
}
SPLITS = {"train": 1, "val": 2, "test": 3}
SOURCES = ("mini-rgbt", "roadscene-motion")
ROADSCENE_FOLDERS = ("crop_LR_visible", "cropinfrared")
# What is left of brightness, of heat, of colour; and the noise of SN. First values; validation
# (notebook 08) gave no reason for others.
STRENGTH = {"LI": 0.12, "TC": 0.06, "CA": 0.10, "SN": 0.16}


def benchmark(split: str, n: int, length: int = 48, source: str = "mini-rgbt") -> list[Sequence]:
    """The first n sequences of a split, frames drawn when asked for. Errors as in `scenes`."""
    return list(scenes(split, n, length, source))


def scenes(split: str, n: int, length: int = 48, source: str = "mini-rgbt") -> Iterator[Sequence]:
    """Yields the first n sequences of a split.

    SettingError: an unknown split or source, more sequences than there are trajectories, or no
    images for roadscene-motion.
    """
    if split not in SPLITS:
        raise SettingError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if source not in SOURCES:
        raise SettingError(f"unknown source {source!r}: expected {' or '.join(SOURCES)}")
    have = len(trajectories(split))
    if split != "train" and n > have:
        raise SettingError(
            f"the split {split} has {have} trajectories, {n} were asked for: none is shown twice"
        )
    for k in range(n):
        yield scene(split, k, length, source)


def fingerprint(sequences: list[Sequence]) -> str:
    """A hash of what is measured on: all boxes, each sequence's first, middle and last frame."""
    digest = hashlib.sha256()
    for s in sequences:
        digest.update(np.round(s.boxes, 6).tobytes())
        for i in {0, len(s) // 2, len(s) - 1}:
            digest.update(s.frame(i).tobytes())
    return digest.hexdigest()[:16]


@cache
def trajectories(split: str) -> tuple[tuple[str, np.ndarray], ...]:
    """(Name, boxes [n, 4]) of the real trajectories of a split, those with at least 60 frames."""
    if split == "test":
        every = {name: boxes[0] for name, boxes in ground_truth("rgbt234").boxes.items()}
    else:
        test = set(ground_truth("lasher").sequences)
        paths = sorted((rgbt_folder() / "LasHeR" / "lasher_gt").glob("*.txt"))
        every = {p.stem: read_boxes(p) for p in paths if (p.stem in test) == (split == "val")}
    rich = [(name, b) for name, b in every.items() if len(b) >= 60]
    return tuple((name, b) for name, b in rich if (b[:, 2:] > 1).all(1).mean() > 0.9)


def motion(boxes: np.ndarray, length: int, fast: np.ndarray, rng: Generator) -> np.ndarray:
    """A random part [length, 4] (cx, cy, w, h) of a trajectory, in units of the mean size.

    Frames in which the target is absent are bridged; where `fast` [length] is True, time runs three
    times as fast.
    """
    good = (boxes[:, 2:] > 1).all(1)
    at = np.arange(len(boxes))
    center = boxes[:, :2] + boxes[:, 2:] / 2
    path = np.stack([np.interp(at, at[good], v[good]) for v in (*center.T, *boxes[:, 2:].T)], 1)
    steps = np.cumsum(np.where(fast, 3, 1))
    start = rng.integers(0, max(1, len(path) - steps[-1]))
    # A path that is too short is walked back from its end.
    fold = np.abs((start + steps - len(path)) % (2 * len(path)) - len(path)).clip(0, len(path) - 1)
    part = path[fold]
    return part / np.sqrt(part[:, 2:].prod(1).mean())


def enlarge(values: np.ndarray, size: int = CANVAS) -> np.ndarray:
    """Enlarges values [k, k], float32, to [size, size] by smooth interpolation.

    No matrix product: its last digits depend on the processor and on the number of threads, and
    scenes must be the same everywhere.
    """
    place = np.linspace(0, len(values) - 1.001, size)
    low, share = place.astype(int), place % 1
    share = share * share * (3 - 2 * share)
    near, far = (w.astype(np.float32)[:, None] for w in (1 - share, share))

    def rows(v: np.ndarray) -> np.ndarray:
        # near * v[low] + far * v[low + 1], rounded as by a fused multiply-add: a product of two
        # float32 is exact in float64.
        first = (near * v[low]).astype(np.float64)
        return (first + far.astype(np.float64) * v[low + 1].astype(np.float64)).astype(np.float32)

    return rows(rows(values).T).T


@cache
def _noise_bank() -> np.ndarray:
    """Gaussian noise [4, 256, 256]: frames take random parts, as drawing anew doubles the time."""
    return np.random.default_rng(0).standard_normal((4, CANVAS, CANVAS), np.float32)


def _field(rng: Generator, octaves: tuple[int, ...], fall: float = 0.6) -> np.ndarray:
    """A smooth random map [256, 256], about unit variance."""
    total, power = np.zeros((CANVAS, CANVAS), np.float32), 0.0
    for i, k in enumerate(octaves):
        total += fall**i * enlarge(rng.standard_normal((k, k), np.float32))
        power += 0.5 * fall ** (2 * i)
    return total / np.float32(np.sqrt(power))


def _drawn_ground(rng: Generator) -> np.ndarray:
    """A background [4, 256, 256] in 0..1: rough ground and boxes with their own colour and heat."""
    light, heat = _field(rng, (5, 11, 23, 47, 95)), _field(rng, (4, 9, 19, 41))
    chroma = [_field(rng, (4, 9)) for _ in range(2)]
    tints = (chroma[0], -0.5 * chroma[0] + 0.5 * chroma[1], -chroma[1])
    ground = np.stack([0.45 + 0.11 * light + 0.04 * c for c in tints] + [0.35 + 0.08 * heat])
    for _ in range(rng.integers(6, 14)):
        x, y = rng.integers(0, CANVAS - 10, 2)
        w, h = rng.integers(10, 60, 2)
        shift = np.append(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3), rng.normal(0, 0.09))
        ground[:, y : y + h, x : x + w] += shift[:, None, None]
    return ground.clip(0.02, 0.98).astype(np.float32)


def _drawn_texture(rng: Generator) -> np.ndarray:
    """A target's texture [4, 32, 32]: a pattern, colour and heat that stand out a little."""
    pattern = np.stack([enlarge(rng.standard_normal((6, 6), np.float32), 32) for _ in range(2)])
    color = 0.45 + rng.choice([-1, 1]) * rng.uniform(0.08, 0.25) + rng.normal(0, 0.07, 3)
    warm = 0.35 + rng.choice([-0.7, 1], p=[0.2, 0.8]) * rng.uniform(0.12, 0.35)
    base = np.append(color, warm)[:, None, None]
    contrast = np.array([0.12, 0.12, 0.12, 0.05])[:, None, None]
    return (base + contrast * pattern[[0, 0, 0, 1]]).clip(0.02, 0.98).astype(np.float32)


@cache
def _roadscene(split: str) -> tuple[tuple[Path, Path], ...]:
    """(RGB, thermal) paths of a split's pairs: three of five for training, one each for others."""
    root = data_dir() / "roadscene"
    paths = sorted((root / "crop_LR_visible").glob("*.jpg"))
    if not paths:
        raise SettingError(f"{root}: there are no images; fetch them first: gmmt fetch roadscene")
    keep = {"train": (0, 1, 2), "val": (3,), "test": (4,)}[split]
    return tuple((p, root / "cropinfrared" / p.name) for i, p in enumerate(paths) if i % 5 in keep)


def _real_patch(split: str, rng: Generator, size: int) -> np.ndarray:
    """A random square part of a random real pair [4, size, size] in 0..1."""
    pairs = _roadscene(split)
    paths = pairs[rng.integers(len(pairs))]
    images = [Image.open(p).convert(mode) for p, mode in zip(paths, ("RGB", "L"), strict=True)]
    width, height = images[0].size
    side = min(40, width, height)
    if size == CANVAS:
        side = int(rng.uniform(0.7, 1) * min(width, height))
    x, y = rng.integers(0, width - side + 1), rng.integers(0, height - side + 1)
    parts = []
    for image in images:
        part = image.crop((x, y, x + side, y + side))
        parts.append(np.asarray(part.resize((size, size), Image.Resampling.BILINEAR), np.float32))
    return np.concatenate([parts[0].transpose(2, 0, 1), parts[1][None]]) / 255


def _paste(
    image: np.ndarray, texture: np.ndarray, box: np.ndarray, opacity: np.ndarray, power: float = 4.0
) -> None:
    """Draws `texture` [4, 32, 32] into the box (cx, cy, w, h) of `image` [4, H, W].

    `opacity` [4]: of each channel.
    """
    cx, cy, w, h = box
    left, top = max(0, int(cx - w / 2)), max(0, int(cy - h / 2))
    right = min(image.shape[2], int(np.ceil(cx + w / 2)))
    bottom = min(image.shape[1], int(np.ceil(cy + h / 2)))
    if right <= left or bottom <= top:
        return
    u = (np.arange(left, right) + 0.5 - cx) * (2 / w)
    v = (np.arange(top, bottom) + 0.5 - cy) * (2 / h)
    radius = (np.abs(u)[None] ** power + np.abs(v)[:, None] ** power) ** (1 / power)
    alpha = ((1 - radius) * (min(w, h) / 2) + 0.5).clip(0, 1)
    n = texture.shape[1]
    a, b = ((x.clip(-1, 0.999) + 1) * (n - 1) / 2 for x in (u, v))
    i, j = a.astype(int), b.astype(int)
    a, b = (a % 1).astype(np.float32), (b % 1).astype(np.float32)[:, None]
    rows = texture[:, j] * (1 - b) + texture[:, j + 1] * b
    drawn = rows[:, :, i] * (1 - a) + rows[:, :, i + 1] * a
    part = image[:, top:bottom, left:right]
    part += (opacity[:, None, None] * alpha).astype(np.float32) * (drawn - part)


def scene(split: str, k: int, length: int = 48, source: str = "mini-rgbt") -> Sequence:
    """Sequence k of a split."""
    rng = np.random.default_rng([SPLITS[split], k])
    paths = trajectories(split)
    # Trajectories in a fixed shuffled order, so that the first n of them are a fair choice.
    name, real = paths[np.random.default_rng(SPLITS[split]).permutation(len(paths))[k % len(paths)]]
    acts = _intervals(rng, length)
    path, camera = _place(motion(real, length, acts["FM"], rng), acts, rng)
    drawn = source == "mini-rgbt"
    ground = _drawn_ground(rng) if drawn else _real_patch(split, rng, CANVAS)
    texture = (lambda: _drawn_texture(rng)) if drawn else (lambda: _real_patch(split, rng, 32))
    own = texture()
    twins = list(_twins(rng, own, path, texture))
    covers = list(_covers(rng, path, acts))
    glare = path[:, :2] + rng.normal(0, 12, 2)
    noise = rng.integers(0, CANVAS - SIZE, (length, 2))
    sides = rng.random((length, 2)) < 0.5

    def frame(i: int) -> np.ndarray:
        x, y = camera[i]
        image = ground[:, y : y + SIZE, x : x + SIZE].copy()
        color = STRENGTH["CA"] if acts["CA"][i] else 1.0
        warmth = STRENGTH["TC"] if acts["TC"][i] else 1.0
        for texture, boxes in twins:
            _paste(image, texture, boxes[i], np.ones(4))
        _paste(image, own, path[i], np.array([color, color, color, warmth]))
        for texture, boxes, when in covers:
            if when[i]:
                _paste(image, texture, boxes[i], np.ones(4), power=12.0)
        if acts["HI"][i]:
            yy, xx = np.ogrid[:SIZE, :SIZE]
            spot = np.exp(-((xx - glare[i, 0]) ** 2 + (yy - glare[i, 1]) ** 2) / (2 * 26.0**2))
            image[:3] = image[:3] * 0.45 + 0.35 + 0.9 * spot.astype(np.float32)
        if acts["LI"][i]:
            image[:3] *= STRENGTH["LI"]
        a, b = noise[i]
        grain = _noise_bank()[:, a : a + SIZE, b : b + SIZE]
        grain = grain[:, :: 1 - 2 * sides[i, 0], :: 1 - 2 * sides[i, 1]]
        image += (STRENGTH["SN"] if acts["SN"][i] else 0.025) * grain
        return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    boxes = np.concatenate([path[:, :2] - path[:, 2:] / 2, path[:, 2:]], axis=1)
    return Sequence(f"{split}-{k:04d}-{name}", boxes, frame, size=(SIZE, SIZE), attributes=acts)


def _intervals(rng: Generator, length: int) -> dict[str, np.ndarray]:
    """Attribute -> bool [length]: two or three act, a quarter to half of the time, not at first."""
    acts = {name: np.zeros(length, bool) for name in ATTRIBUTES}
    for name in rng.choice(list(ATTRIBUTES), rng.integers(2, 4), replace=False):
        span = int(length * (rng.uniform(0.1, 0.16) if name == "TO" else rng.uniform(0.25, 0.5)))
        start = rng.integers(3, max(4, length - span))
        acts[name][start : start + max(1, span)] = True
    return acts


def _place(path: np.ndarray, acts: Acts, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """The target in the image [n, 4] (cx, cy, w, h) and the camera's corner on the canvas [n, 2].

    Both are in pixels. Where the path is wider than the image, the camera pans along with it.
    """
    n = len(path)
    size = rng.uniform(13, 24)
    zoom = np.ones(n)
    if acts["SV"].any():
        ramp = np.cumsum(acts["SV"]) / acts["SV"].sum()
        zoom = rng.choice([0.6, 1.6]) ** ramp
    wh = (path[:, 2:] * size * zoom[:, None]).clip(9, 40)
    center = path[:, :2] * size
    low, high = center.min(0), center.max(0)
    room = np.maximum(SIZE - wh.max(0) - 8, 8)
    share = np.minimum(1, room / np.maximum(high - low, 1e-9))
    slack = room - share * (high - low)
    inside = (center - low) * share + wh.max(0) / 2 + 4 + rng.uniform(0, 1, 2) * slack
    # The world moves by what is left of the motion, folded into the canvas.
    world = (center - low) * (1 - share) + rng.uniform(0, CANVAS - SIZE, 2)
    span = CANVAS - SIZE - 1
    camera = span - np.abs(world % (2 * span) - span)
    if acts["CM"].any():
        shake = np.where(acts["CM"][:, None], rng.normal(0, 3.5, (n, 2)), 0)
        moved = (inside + shake).clip(wh / 2 + 1, SIZE - wh / 2 - 1)
        camera, inside = (camera - (moved - inside)).clip(0, span), moved
    return np.concatenate([inside, wh], axis=1), camera.round().astype(int)


def _twins(
    rng: Generator, own: np.ndarray, path: np.ndarray, other: Callable[[], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (texture, boxes [n, 4]) of things that pass the target at 1 to 3 of its sizes.

    They look like it in ONE modality.
    """
    n, t = len(path), np.arange(len(path))[:, None]
    for _ in range(rng.integers(1, 4)):
        same, differs = slice(3, 4), slice(0, 3)
        if rng.random() < 0.5:
            same, differs = differs, same
        texture = other()
        for _ in range(20):  # a twin in one modality must be told apart in the other
            if np.abs(texture[differs].mean((1, 2)) - own[differs].mean((1, 2))).max() > 0.15:
                break
            texture = other()
        texture[same] = own[same]
        angle, size = rng.uniform(0, 2 * np.pi), np.sqrt(path[:, 2:].prod(1).mean())
        away = np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-np.sin(angle), np.cos(angle)])
        offset = rng.uniform(1, 3) * size * away
        offset = offset + along * (t - rng.uniform(0, n)) * rng.normal(0, 0.12) * size
        wh = path[:, 2:] * rng.uniform(0.85, 1.15)
        yield texture, np.concatenate([path[:, :2] + offset, wh], axis=1)


def _covers(rng: Generator, path: np.ndarray, acts: Acts) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields (texture, boxes [n, 4], when [n]) of what hides the target: half in PO, all in TO."""
    for name, scale, shift in (("PO", 1.1, 0.55), ("TO", 1.5, 0.0)):
        if acts[name].any():
            angle = rng.uniform(0, 2 * np.pi)
            offset = shift * path[:, 2:] * np.array([np.cos(angle), np.sin(angle)])
            boxes = np.concatenate([path[:, :2] + offset, path[:, 2:] * scale], axis=1)
            yield _drawn_texture(rng), boxes, acts[name]
