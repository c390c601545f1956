"""GMMT: generative-based fusion for multi-modal tracking (AAAI 2024), reproduced.

Importing this package is cheap: nothing here imports torch, pandas or matplotlib;
`gmmt.load_official` does when it is first asked for.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name != "load_official":
        raise AttributeError(f"module 'gmmt' has no attribute {name!r}")
    from gmmt.trackers.official import load_official

    return load_official
