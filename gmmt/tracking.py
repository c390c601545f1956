"""One-pass evaluation: a tracker gets the first frame's box, then one frame after the other, many
sequences in lock-step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gmmt.data.crops import context_side
from gmmt.data.sequence import Sequence
from gmmt.draws import Draws
from gmmt.metrics import PROTOCOLS, Protocol, Scores, measure, score_frames
from gmmt.trackers.base import Tracker

PROTOCOL = replace(
    PROTOCOLS["rgbt234"],
    name="mini-RGBT",
    precision_threshold=5.0,
    modality="first",
    first_frame="truth",
)
"""How the miniature is scored: PR at 5 pixels (targets are small), NPR, SR; the first box is
given.
"""


@dataclass(frozen=True)
class Search:
    """How a tracker reads its score map, with the defaults of SiamRPN++.

    `penalty` lowers the score of a changed size or shape; `window` is the share of the cosine
    window, which prefers the middle (None: the scores are multiplied by it, as in OSTrack); `rate`
    is how fast the size follows (None: at once).
    """

    penalty: float = 0.04
    window: float | None = 0.44
    rate: float | None = 0.4


@torch.inference_mode()
def track(
    tracker: Tracker,
    mode: str,
    sequences: list[Sequence],
    *,
    steps: int = 1,
    seed: int | None = 0,
    search: Search | None = None,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the boxes [n, 4] (x, y, w, h) of each sequence; frames of all sequences must have one
    size.

    `mode` says which head and features (`trackers.base.Tracker`); `steps` and `seed` are of GMMT's
    sampling. Frame i has the same noise in every sequence, so that a result does not depend on
    which others run beside it; seed None puts zeros in the noise's place.
    """
    device = next(tracker.parameters()).device
    tracker.eval()
    search = search or Search(**tracker.reading)
    n, lengths = len(sequences), [len(s) for s in sequences]
    found = [np.empty((length, 4)) for length in lengths]
    state = torch.tensor(
        np.stack([s.boxes[0] for s in sequences]), dtype=torch.float32, device=device
    )
    center, wh = state[:, :2] + state[:, 2:] / 2, state[:, 2:].clone()

    def frames(i: int) -> Tensor:
        return torch.from_numpy(np.stack([s.frame(min(i, len(s) - 1)) for s in sequences])).to(
            device
        )

    def draws(i: int) -> Draws:
        return Draws(None if seed is None else (seed << 20) + i, same=True)

    template = tracker.encode_template(
        tracker.crop(frames(0), center, wh, tracker.template_size), mode
    )
    for i in tqdm(
        range(max(lengths)), desc=f"track {n} sequences", disable=not progress, mininterval=5
    ):
        if i:
            images = frames(i)
            cut = tracker.crop(images, center, wh, tracker.search_size)
            parts = [
                tracker.search(template[k : k + 64], cut[k : k + 64], mode, steps, draws(i))
                for k in range(0, n, 64)
            ]
            score, found_in_patch = tracker.decode(
                *(torch.cat(p) for p in zip(*parts, strict=True))
            )
            center, wh = step(score, found_in_patch, center, wh, tracker, search, images.shape[2:])
        boxes = torch.cat([center - wh / 2, wh], dim=1).double().cpu().numpy()
        for k, length in enumerate(lengths):
            if i < length:
                found[k][i] = boxes[k] if i else sequences[k].boxes[0]
    return {s.name: b for s, b in zip(sequences, found, strict=True)}


def step(
    score: Tensor,
    boxes: Tensor,
    center: Tensor,
    wh: Tensor,
    tracker: Tracker,
    search: Search,
    frame: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Returns the new (centre, size) [B, 2] each, in pixels of the frame, from what
    `tracker.decode` gives and those of the last frame.
    """
    b, size = len(score), score.shape[-1]
    score, boxes = score.reshape(b, -1), boxes.reshape(b, 4, -1)
    middle, new = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    scale = tracker.side(wh) / tracker.template_size  # pixels of the frame in one of the patch
    old = wh / scale[:, None]

    def change(r: Tensor) -> Tensor:
        return torch.maximum(r, 1 / r)

    larger = change(context_side(new) / context_side(old)[:, None])
    wider = change((old[:, :1] / old[:, 1:]) / (new[:, 0] / new[:, 1]))
    penalty = torch.exp(-(larger * wider - 1) * search.penalty)
    hann = torch.hann_window(size + 2, periodic=False, device=score.device)[1:-1]
    window = torch.outer(hann, hann).flatten()
    share = search.window
    best = (
        penalty * score * window
        if share is None
        else penalty * score * (1 - share) + window * share
    ).argmax(1)

    def pick(x: Tensor) -> Tensor:
        return x.gather(-1, best.reshape(b, *[1] * (x.ndim - 1)).expand(*x.shape[:-1], 1)).squeeze(
            -1
        )

    rate = 1.0 if search.rate is None else (pick(penalty) * pick(score) * search.rate)[:, None]
    wh = (wh * (1 - rate) + pick(new) * scale[:, None] * rate).clamp(min=4)
    limit = torch.tensor([frame[1], frame[0]], device=wh.device, dtype=wh.dtype)
    center = (center + pick(middle) * scale[:, None]).clamp(min=0).minimum(limit)
    return center, wh.minimum(limit)


def evaluate(
    boxes: Mapping[str, np.ndarray], sequences: list[Sequence], protocol: Protocol = PROTOCOL
) -> tuple[Scores, dict[str, Scores]]:
    """Returns the scores by sequence over all frames, and for each attribute over the frames in
    which it acts.
    """
    frames = measure(boxes, {s.name: (s.boxes,) for s in sequences}, protocol)
    acts = {
        name: np.concatenate([s.attributes[name] for s in sequences])
        for name in sequences[0].attributes
    }
    by_attribute = {
        name: score_frames(frames, protocol, when) for name, when in acts.items() if when.any()
    }
    return score_frames(frames, protocol), by_attribute
