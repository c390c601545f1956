"""Tracking: `Targets` follows them, `track` one in its sequence, `track_all` many at once."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gmmt import compute
from gmmt.data.crops import CropRule, context_side, upload
from gmmt.data.sequence import Sequence, check_box
from gmmt.draws import Draws
from gmmt.errors import GmmtError, SettingError
from gmmt.recording import Recording
from gmmt.trackers.base import Tracker

ALL = slice(None)
BATCH = 64  # sequences that go through the network together
LEAST_SIZE = 1e-3  # pixels of the patch: no candidate is smaller
CHOICES = {
    "combine": ("mix", "multiply"),
    "hann": ("inside", "whole"),
    "resize": ("by score", "at once"),
    "clip": ("centre", "corners"),
}


@dataclass(frozen=True)
class Reading:
    """How a tracker reads its score map; the defaults are the Siamese tracker's (SiamRPN++'s).

    SettingError if a word is not one of CHOICES, or a number is none or negative.
    """

    penalty: float = 0.04  # for a changed size or shape: times exp(-penalty * (change - 1))
    combine: str = "mix"  # with a cosine window, which prefers the middle; or "multiply" (OSTrack)
    window: float = 0.44  # its share w in "mix": (1 - w) * score + w * window
    hann: str = "inside"  # the window: hann(S + 2) without its zeros; or "whole": hann(S) (SiamBAN)
    resize: str = "by score"  # the size moves by the share rate * score to the new; or "at once"
    rate: float = 0.4
    clip: str = "centre"  # centre and size are limited to the frame; or the box's "corners"
    margin: float = 0.0  # pixels of the box that "corners" keeps within the frame (OSTrack: 10)
    smallest: float = 4.0  # width and height in pixels, before the box is clipped

    def __post_init__(self):
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise SettingError(f"{name} is one of {words}, not {getattr(self, name)!r}")
        for name in ("penalty", "window", "rate", "margin", "smallest"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value >= 0:
                raise SettingError(f"{name} is a number, 0 or more, not {value!r}")


class Targets:
    """Where B targets were last seen, and how they are followed: `cut`, the tracker, `move`.

    All is on one device, and nothing waits for it, but for numbers that somebody wants to see.
    """

    def __init__(
        self,
        boxes: np.ndarray,
        sizes: list[tuple[int, int]],
        crops: CropRule,
        reading: Reading,
        device: torch.device | str = "cpu",
    ):
        """Starts at boxes [B, 4] (x, y, w, h) in pixels of the first frames, of `sizes` (H, W)."""
        self.crops, self.reading = crops, reading
        state = torch.tensor(np.asarray(boxes), dtype=torch.float32, device=device)
        limits = [(width, height) for height, width in sizes]
        self.limit = torch.tensor(limits, dtype=torch.float32, device=device)
        self.center, self.wh = state[:, :2] + state[:, 2:] / 2, state[:, 2:].clone()  # [B, 2] each

    def keep(self, which: Tensor) -> None:
        """Goes on with those targets alone that bool [B] marks, on the CPU."""
        places = which.nonzero()[:, 0].to(self.center.device)
        self.center, self.wh = self.center[places], self.wh[places]
        self.limit = self.limit[places]

    def cut(self, frames: list[Tensor], size: int, part: slice = ALL) -> Tensor:
        """Patches [b, C, size, size] in 0..255 of frames uint8 [C, H, W] around the last boxes of
        the b targets `part`, which the frames are of.
        """
        center, wh = self.center[part], self.wh[part]
        if len({frame.shape for frame in frames}) == 1:
            return self.crops.cut(torch.stack(frames), center, wh, size)
        rows = zip(frames, center[:, None], wh[:, None], strict=True)
        return torch.cat([self.crops.cut(frame[None], *row, size) for frame, *row in rows])

    def move(self, score: Tensor, boxes: Tensor, part: slice = ALL) -> Tensor:
        """Moves each to the best cell of its score map [b, S, S] with boxes [b, 4, S, S]
        (x1, y1, x2, y2) in pixels around the middle of the patch cut last. Gives [b, 5]: the boxes
        (x, y, w, h) in pixels of the frames, and the tracker's own score.
        """
        reading, size = self.reading, score.shape[-1]
        before, limit = self.wh[part], self.limit[part]
        # 1. Every cell's candidate, and the last box, in pixels of the patch.
        score, boxes = score.flatten(1), boxes.flatten(2)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        new = (boxes[:, 2:] - boxes[:, :2]).clamp(min=LEAST_SIZE)
        scale = self.crops.scale(before)[:, None]  # pixels of the frame in one of the patch
        old = before / scale
        # 2. The penalty for a changed size and shape (SiamRPN++).
        larger = _change(context_side(new) / context_side(old)[:, None])
        wider = _change((old[:, :1] / old[:, 1:]) / (new[:, 0] / new[:, 1]))
        penalty = torch.exp(-(larger * wider - 1) * reading.penalty)
        # 3. The window, and the best cell.
        window = cosine_window(size, reading.hann, score.device).flatten()
        if reading.combine == "multiply":
            total = penalty * score * window
        else:
            total = penalty * score * (1 - reading.window) + window * reading.window
        best = total.argmax(1, keepdim=True)  # [b, 1]
        pair = best[:, None].expand(-1, 2, -1)
        # 4. The new size and centre, in pixels of the frame.
        wh = new.gather(2, pair)[..., 0] * scale
        if reading.resize == "by score":
            rate = penalty.gather(1, best) * score.gather(1, best) * reading.rate
            wh = before * (1 - rate) + wh * rate
        wh = wh.clamp(min=reading.smallest)
        center = self.center[part] + middle.gather(2, pair)[..., 0] * scale
        # 5. Within the frame.
        if reading.clip == "centre":
            center, wh = center.clamp(min=0).minimum(limit), wh.minimum(limit)
        else:
            center, wh = clip_corners(center, wh, limit, reading.margin)
        self.center[part], self.wh[part] = center, wh
        return torch.cat([center - wh / 2, wh, score.gather(1, best)], dim=1)


def numbers(found: Tensor, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(boxes float64 [b, 4], scores [b]) of what `Targets.move` gave, once it is on the CPU;
    GmmtError if a box is not finite, or has no size.
    """
    values = found.double().numpy()
    fine = np.isfinite(values).all(1) & (values[:, 2:4] > 0).all(1)
    if not fine.all():
        k = int(np.argmin(fine))
        raise GmmtError(
            f"{names[k]}: the tracker found the box {values[k, :4]} with score {values[k, 4]}; "
            "expected finite numbers with a width and a height. Are its weights finite?"
        )
    return values[:, :4], values[:, 4]


def _change(ratio: Tensor) -> Tensor:
    """How many times larger or smaller."""
    return torch.maximum(ratio, 1 / ratio)


@lru_cache
def cosine_window(size: int, hann: str, device: torch.device) -> Tensor:
    """The window [S, S] that prefers the middle of a score map: see Reading.hann."""
    if hann == "inside":
        line = torch.hann_window(size + 2, periodic=False, device=device)[1:-1]
    else:
        line = torch.hann_window(size, periodic=False, device=device)
    return torch.outer(line, line)


def clip_corners(center: Tensor, wh: Tensor, limit: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """(centre, size) [B, 2] of a box's part in the frame, `margin` at least (OSTrack: clip_box)."""
    low, high = center - wh / 2, center + wh / 2
    low = low.clamp(min=0).minimum(limit - margin)
    high = high.clamp(min=margin).minimum(limit)
    wh = (high - low).clamp(min=margin)
    return low + wh / 2, wh


def track(
    tracker: Tracker,
    mode: str,
    sequence: Sequence,
    *,
    steps: int = 1,
    seed: int | None = 0,
    reading: Reading | None = None,
    fast: bool = False,
) -> Iterator[tuple[np.ndarray, float]]:
    """Tracks the target of one sequence from its first box on, on the tracker's device. Iterates
    over (box, score), float64 [4] (x, y, w, h) in pixels and 0..1; first the given box and 1.

    The tracker is set to evaluation mode; its weights are laid out in channels_last meanwhile, and
    contiguously in the end, so that no digit depends on how it came here.

    Args:
        mode: which head and features, see trackers.base.Tracker.
        steps: of GMMT's sampling.
        seed: of its noise, the same in frame i of every sequence; None puts zeros in its place.
        reading: how score maps are read; None: as the tracker's own `reading` says.
        fast: a GPU records its work on a frame once and repeats it (recording.py).

    On a GPU a box comes one frame later than it could, when the next frame is under way.

    Raises:
        SettingError: no such mode, other modalities, or the first box is not finite or sizeless.
        GmmtError: the tracker's answer is not finite (while iterating).
    """
    targets, device = _targets(tracker, mode, [sequence], reading), place_of(tracker)
    search = tracker.crops.search

    def follow() -> Iterator[tuple[np.ndarray, float]]:
        with _laid_out(tracker):
            template = _templates(tracker, mode, targets, [sequence])

            def work(frame: Tensor, draws: Draws) -> Tensor:
                found = _answer(tracker, template, targets.cut([frame], search), mode, steps, draws)
                return targets.move(*found)

            # 1. A frame's work goes to the device; on a GPU it is recorded first, if that is asked.
            if fast and device.type == "cuda":
                work = Recording(work, sequence.frame(0), [targets.center, targets.wh])
            yield np.array(sequence.boxes[0], float), 1.0
            # 2. What it finds comes back while the GPU has the next frame.
            behind = 1 if device.type == "cuda" else 0
            waiting: deque[Callable[[], Tensor]] = deque()
            for i in range(1, len(sequence)):
                found = work(upload(sequence.frame(i), device), _noise(seed, i))
                waiting.append(compute.download(found))
                if len(waiting) > behind:
                    yield _one(waiting.popleft()(), sequence.name)
            while waiting:
                yield _one(waiting.popleft()(), sequence.name)

    return follow()


def track_all(
    tracker: Tracker,
    mode: str,
    sequences: list[Sequence],
    *,
    steps: int = 1,
    seed: int | None = 0,
    reading: Reading | None = None,
    progress: bool = False,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tracks many targets in lock-step, each as `track` does, up to the last digits of a batch's
    arithmetic; arguments and errors as there. Frames may differ in size and number.

    Gives name -> (boxes [n, 4], scores [n]), float64; ValueError if there is no sequence, or two
    have one name.
    """
    # Row 0 is the given box, with score 1; all others are overwritten.
    found = {s.name: (np.array([s.boxes[0]] * len(s), float), np.ones(len(s))) for s in sequences}
    if not sequences or len(found) < len(sequences):
        raise ValueError("expected one sequence or more, each with a name of its own")
    targets, device = _targets(tracker, mode, sequences, reading), place_of(tracker)
    running = list(sequences)
    what, longest = f"track {len(sequences)} sequences", max(len(s) for s in sequences)
    with _laid_out(tracker):
        # 1. All templates.
        template = _templates(tracker, mode, targets, running)
        for i in tqdm(range(1, longest), what, disable=not progress, mininterval=5):
            # 2. Who goes on.
            goes_on = torch.tensor([i < len(s) for s in running])
            if not goes_on.all():
                targets.keep(goes_on)
                template = template[goes_on.nonzero()[:, 0].to(device)]
                running = [s for s in running if i < len(s)]
            # 3. One frame of each, BATCH at a time.
            waiting = []
            for k in range(0, len(running), BATCH):
                part = slice(k, k + BATCH)
                frames = _uploaded([s.frame(i) for s in running[part]], device)
                patches = targets.cut(frames, tracker.crops.search, part)
                draws = _noise(seed, i)
                answer = _answer(tracker, template[part], patches, mode, steps, draws)
                waiting.append((running[part], compute.download(targets.move(*answer, part))))
            # 4. As numbers: a GPU is waited for once.
            for part, download in waiting:
                boxes, scores = numbers(download(), [s.name for s in part])
                for s, box, score in zip(part, boxes, scores, strict=True):
                    found[s.name][0][i], found[s.name][1][i] = box, score
    return found


def place_of(tracker: Tracker) -> torch.device:
    """The device that a tracker is on."""
    return next(tracker.parameters()).device


def _targets(
    tracker: Tracker, mode: str, sequences: list[Sequence], reading: Reading | None
) -> Targets:
    """The targets of sequences in their first frames, after checking that all fits together."""
    tracker.check_mode(mode)
    for s in sequences:
        if list(s.modalities.items()) != list(tracker.modalities.items()):
            raise SettingError(
                f"{s.name} has the modalities {dict(s.modalities)}; {type(tracker).__name__} "
                f"expects {dict(tracker.modalities)}, in this order"
            )
        check_box(s.boxes[0], s.name)
    reading = reading or Reading(**tracker.reading)
    boxes, sizes = np.array([s.boxes[0] for s in sequences]), [s.size for s in sequences]
    return Targets(boxes, sizes, tracker.crops, reading, place_of(tracker))


def _uploaded(frames: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Frames [C, H, W] on a device; those of one size are sent in one piece."""
    if len({frame.shape for frame in frames}) == 1:
        return list(upload(np.stack(frames), device))
    return [upload(frame, device) for frame in frames]


@contextmanager
def _laid_out(tracker: Tracker) -> Iterator[None]:
    """Evaluation mode, and the fast layout of weights; torch's own again when the last track of
    this tracker ends.
    """
    tracker.eval()
    tracker.tracks = getattr(tracker, "tracks", 0) + 1
    try:
        _lay_out(tracker, fast=True)
        yield
    finally:
        tracker.tracks -= 1
        if tracker.tracks == 0:
            _lay_out(tracker, fast=False)


def _lay_out(tracker: Tracker, fast: bool) -> None:
    with torch.inference_mode(False):  # else the weights could not be trained any more
        compute.layout(tracker, place_of(tracker), fast)


@torch.inference_mode()
def _templates(tracker: Tracker, mode: str, targets: Targets, sequences: list[Sequence]) -> Tensor:
    """What is kept of all targets' templates, from the first frames."""
    frames = _uploaded([s.frame(0) for s in sequences], place_of(tracker))
    return tracker.encode_template(targets.cut(frames, tracker.crops.template), mode)


@torch.inference_mode()
def _answer(
    tracker: Tracker, z: Tensor, x: Tensor, mode: str, steps: int, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Scores [B, S, S] and boxes [B, 4, S, S] for templates z and search patches x."""
    return tracker.decode(*tracker.search(z, x, mode, steps, draws))


def _noise(seed: int | None, i: int) -> Draws:
    """The noise of frame i."""
    return Draws(None if seed is None else (seed << 20) + i, same=True)


def _one(found: Tensor, name: str) -> tuple[np.ndarray, float]:
    """The box [4] and the score of the one target that there is."""
    (box,), (score,) = numbers(found, [name])
    return box, float(score)
