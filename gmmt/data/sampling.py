"""Which two frames make a training pair, as OSTrack (with ViPT and TBSI) and SiamBAN draw them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmmt.config import Data
from gmmt.errors import SettingError

LEAST_FRAMES, LEAST_VISIBLE = 20, 5
"""How long a sequence is, and in how many frames its target can be seen, for OSTrack to use it."""
WIDENED = 5
"""By how many frames OSTrack's interval grows when nothing is found within it."""


@dataclass(frozen=True)
class Pair:
    """Where a template and a search patch are from: numbers of sequences and of their frames."""

    template_sequence: int
    template_frame: int
    search_sequence: int
    search_frame: int
    negative: bool  # what the search patch shows is another target


def draw_pair(
    rng: np.random.Generator, visible: Sequence[np.ndarray], way: str, data: Data
) -> Pair:
    """Returns a pair of frames, drawn in OSTrack's `way`, "ostrack", or else in SiamBAN's.

    `visible` says for each sequence in which of its frames [n] the target has a box. SettingError:
    no sequence serves.
    """
    if way == "ostrack":
        return _ostrack(rng, visible, data.interval)
    return _siamban(rng, visible, data.interval, data.negative)


def _ostrack(rng: np.random.Generator, visible: Sequence[np.ndarray], interval: int) -> Pair:
    """A frame, and one that follows it by less than `interval`; both anew, within a wider interval,
    as long as there is none.
    """
    sequence = _any_sequence(rng, visible, LEAST_FRAMES, LEAST_VISIBLE)
    frames = np.flatnonzero(visible[sequence])
    before_last = frames[frames < len(visible[sequence]) - 1]
    while True:
        template = rng.choice(before_last)
        behind = frames[(frames > template) & (frames < template + interval)]
        if len(behind):
            return Pair(sequence, int(template), sequence, int(rng.choice(behind)), False)
        interval += WIDENED


def _siamban(
    rng: np.random.Generator, visible: Sequence[np.ndarray], interval: int, negative: float
) -> Pair:
    """Two frames of one sequence, at most `interval` places from each other in the list of its
    visible ones, in any order; or, with probability `negative`, frames of any two sequences.

    Drawn at random these may be one: SiamBAN takes its target for two, here the pair is positive.
    """
    sequence = _any_sequence(rng, visible, 1, 1)
    frames = np.flatnonzero(visible[sequence])
    place = rng.integers(len(frames))
    template = int(frames[place])
    if rng.random() < negative:
        other = _any_sequence(rng, visible, 1, 1)
        search = int(rng.choice(np.flatnonzero(visible[other])))
        return Pair(sequence, template, other, search, other != sequence)
    near = frames[max(place - interval, 0) : place + interval + 1]
    return Pair(sequence, template, sequence, int(rng.choice(near)), False)


def _any_sequence(
    rng: np.random.Generator, visible: Sequence[np.ndarray], least: int, least_visible: int
) -> int:
    """A sequence with so many frames, and so many visible ones, each with the same probability."""
    for k in rng.permutation(len(visible)):
        if len(visible[k]) >= least and np.count_nonzero(visible[k]) >= least_visible:
            return int(k)
    raise SettingError(
        f"none of {len(visible)} training sequences can be used: expected at least {least} frames, "
        f"and a box of the target in {least_visible} of them; check data.root"
    )
