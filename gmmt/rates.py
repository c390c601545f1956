"""How learning rates go from epoch to epoch, in shares of the highest one: what the official
trackers do.
"""


def stepped(epoch: int, constant: int, factor: float = 0.1) -> float:
    """Returns 1 in the first `constant` epochs and `factor` in all that follow; epochs count from
    0: OSTrack, ViPT and TBSI.
    """
    return 1.0 if epoch < constant else factor


def warmed_up(epoch: int, epochs: int, warmup: int, first: float, last: float) -> float:
    """Returns a share that rises from `first` to 1 in `warmup` epochs, and then falls to `last` in
    the last of all `epochs`, both by a constant factor; epochs count from 0: SiamBAN.
    """
    if epoch < warmup:
        return first ** (1 - epoch / warmup)
    return last ** ((epoch - warmup) / max(1, epochs - warmup - 1))
