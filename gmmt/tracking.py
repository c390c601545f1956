"""Tracking: `Target` follows one target, `track` in one sequence, `track_all` in many at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gmmt import compute
from gmmt.data.crops import CropRule, context_side
from gmmt.data.sequence import Sequence, check_box
from gmmt.draws import Draws
from gmmt.errors import GmmtError, SettingError
from gmmt.trackers.base import Tracker

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


class Target:
    """Where one target was last seen, and how it is followed: `patch`, the tracker, `move`."""

    def __init__(
        self,
        box: np.ndarray,
        crops: CropRule,
        reading: Reading,
        device: torch.device | str = "cpu",
        name: str = "target",
    ):
        """Starts at a box [4] (x, y, w, h) in pixels of the first frame; SettingError if unfit."""
        check_box(box, name)
        self.crops, self.reading, self.device, self.name = crops, reading, device, name
        self.box, self.score = np.asarray(box, np.float64), 1.0  # what was found last
        state = torch.tensor(self.box[None], dtype=torch.float32, device=device)
        self.center, self.wh = state[:, :2] + state[:, 2:] / 2, state[:, 2:].clone()  # [1, 2] each

    def template(self, frame: np.ndarray) -> Tensor:
        """The template [1, C, t, t] in 0..255, from the first frame, uint8 [C, H, W]."""
        return self._cut(frame, self.crops.template)

    def patch(self, frame: np.ndarray) -> Tensor:
        """The search patch [1, C, s, s] in 0..255 of the next frame, around the last box."""
        return self._cut(frame, self.crops.search)

    def _cut(self, frame: np.ndarray, size: int) -> Tensor:
        height, width = frame.shape[1:]
        self.limit = torch.tensor([[width, height]], dtype=torch.float32, device=self.device)
        frames = torch.from_numpy(np.ascontiguousarray(frame))[None].to(self.device)
        return self.crops.cut(frames, self.center, self.wh, size)

    def move(self, score: Tensor, boxes: Tensor) -> tuple[np.ndarray, float]:
        """Moves to the best cell of a score map [S, S] with boxes [4, S, S] (x1, y1, x2, y2) in
        pixels around the middle of the patch cut last. Gives the box, float64 [4] (x, y, w, h) in
        pixels of the frame, and the tracker's own score; GmmtError if they are no finite box.
        """
        reading, size = self.reading, score.shape[-1]
        # 1. Every cell's candidate, and the last box, in pixels of the patch.
        score, boxes = score.reshape(1, -1), boxes.reshape(1, 4, -1)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        new = (boxes[:, 2:] - boxes[:, :2]).clamp(min=LEAST_SIZE)
        scale = self.crops.scale(self.wh)[:, None]  # pixels of the frame in one of the patch
        old = self.wh / scale
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
        best = total.argmax(1)
        # 4. The new size and centre, in pixels of the frame.
        wh = new[..., best].squeeze(-1) * scale
        if reading.resize == "by score":
            rate = penalty[:, best] * score[:, best] * reading.rate
            wh = self.wh * (1 - rate) + wh * rate
        wh = wh.clamp(min=reading.smallest)
        center = self.center + middle[..., best].squeeze(-1) * scale
        # 5. Within the frame.
        if reading.clip == "centre":
            self.center = center.clamp(min=0).minimum(self.limit)
            self.wh = wh.minimum(self.limit)
        else:
            self.center, self.wh = clip_corners(center, wh, self.limit, reading.margin)
        # 6. As numbers: a GPU is waited for once.
        found = torch.cat([self.center - self.wh / 2, self.wh, score[:, best]], dim=1)
        *box, self.score = found[0].tolist()
        self.box = np.array(box)
        if not (np.isfinite([*box, self.score]).all() and (self.box[2:] > 0).all()):
            raise GmmtError(
                f"{self.name}: the tracker found the box {self.box} with score {self.score}; "
                "expected finite numbers with a width and a height. Are its weights finite?"
            )
        return self.box, self.score


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

    Raises:
        SettingError: no such mode, other modalities, or the first box is not finite or sizeless.
        GmmtError: the tracker's answer is not finite (while iterating).
    """
    (target,) = _targets(tracker, mode, [sequence], reading)

    def follow() -> Iterator[tuple[np.ndarray, float]]:
        with _laid_out(tracker):
            with torch.inference_mode():
                template = tracker.encode_template(target.template(sequence.frame(0)), mode)
            yield target.box, target.score
            for i in range(1, len(sequence)):
                patch = target.patch(sequence.frame(i))
                _lay_out(tracker, fast=True)  # another `track` may have ended meanwhile
                score, boxes = _answer(tracker, template, patch, mode, steps, seed, i)
                yield target.move(score[0], boxes[0])

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
    running = list(zip(sequences, _targets(tracker, mode, sequences, reading), strict=True))
    what, longest = f"track {len(sequences)} sequences", max(len(s) for s in sequences)
    with _laid_out(tracker):
        # 1. All templates.
        with torch.inference_mode():
            patches = torch.cat([target.template(s.frame(0)) for s, target in running])
            template = tracker.encode_template(patches, mode)
        for i in tqdm(range(1, longest), what, disable=not progress, mininterval=5):
            # 2. Who goes on.
            goes_on = [i < len(s) for s, _ in running]
            if not all(goes_on):
                template = template[torch.tensor(goes_on, device=template.device)]
                running = [pair for pair, on in zip(running, goes_on, strict=True) if on]
            # 3. One frame of each, BATCH at a time.
            for k in range(0, len(running), BATCH):
                part = running[k : k + BATCH]
                patches = torch.cat([target.patch(s.frame(i)) for s, target in part])
                kernel = template[k : k + BATCH]
                scores, boxes = _answer(tracker, kernel, patches, mode, steps, seed, i)
                for (s, target), score, box in zip(part, scores, boxes, strict=True):
                    found[s.name][0][i], found[s.name][1][i] = target.move(score, box)
    return found


def _targets(
    tracker: Tracker, mode: str, sequences: list[Sequence], reading: Reading | None
) -> list[Target]:
    """The targets of sequences in their first frames, after checking that all fits together."""
    tracker.check_mode(mode)
    for s in sequences:
        if list(s.modalities.items()) != list(tracker.modalities.items()):
            raise SettingError(
                f"{s.name} has the modalities {dict(s.modalities)}; {type(tracker).__name__} "
                f"expects {dict(tracker.modalities)}, in this order"
            )
    reading = reading or Reading(**tracker.reading)
    device = next(tracker.parameters()).device
    return [Target(s.boxes[0], tracker.crops, reading, device, s.name) for s in sequences]


@contextmanager
def _laid_out(tracker: Tracker) -> Iterator[None]:
    """Evaluation mode, and the fast layout of weights; torch's own in the end."""
    tracker.eval()
    try:
        _lay_out(tracker, fast=True)
        yield
    finally:
        _lay_out(tracker, fast=False)


def _lay_out(tracker: Tracker, fast: bool) -> None:
    with torch.inference_mode(False):  # else the weights could not be trained any more
        compute.layout(tracker, next(tracker.parameters()).device, fast)


@torch.inference_mode()
def _answer(
    tracker: Tracker, z: Tensor, x: Tensor, mode: str, steps: int, seed: int | None, i: int
) -> tuple[Tensor, Tensor]:
    """Scores [B, S, S] and boxes [B, 4, S, S] for templates z and search patches x of frame i."""
    noise = Draws(None if seed is None else (seed << 20) + i, same=True)
    return tracker.decode(*tracker.search(z, x, mode, steps, noise))
