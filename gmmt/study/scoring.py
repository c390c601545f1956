"""How the miniature is scored: its protocol, over all frames and by attribute."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gmmt.data.sequence import Sequence
from gmmt.metrics import PROTOCOLS, Protocol, Scores, measure, score_frames

PROTOCOL = replace(
    PROTOCOLS["rgbt234"],
    name="mini-RGBT",
    precision_threshold=5.0,
    success_grid="linspace",
    modality="first",
    first_frame="truth",
)
"""PR at 5 pixels (targets are small), NPR, SR; the first box is given; no toolkit has to be met."""


def evaluate(
    boxes: Mapping[str, np.ndarray], sequences: list[Sequence], protocol: Protocol = PROTOCOL
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of tracked boxes.

    Args:
        boxes: of each sequence by its name [n, 4] (x, y, w, h) in pixels.
        sequences: with true boxes; all have the attributes of the first.
        protocol: how frames are measured and averaged.

    Returns:
        The scores by sequence over all frames, and those of each attribute over the frames in which
        it acts.
    """
    frames = measure(boxes, {s.name: (s.boxes,) for s in sequences}, protocol)
    by_attribute = {}
    for name in sequences[0].attributes:
        acts = np.concatenate([s.attributes[name] for s in sequences])
        if acts.any():
            by_attribute[name] = score_frames(frames, protocol, acts)
    return score_frames(frames, protocol), by_attribute
