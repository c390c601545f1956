"""Errors that a user can act on: each message names the file, the line, what was expected and what
to do.
"""

import difflib


class GmmtError(Exception):
    """Base of every error that gmmt raises on purpose; the command line prints its message without
    a traceback.
    """


class ResultFileError(GmmtError, ValueError):
    """A tracker's result file, or a ground-truth file, does not hold what it should."""


class ManifestError(GmmtError, ValueError):
    """A data manifest is malformed, or names something that does not exist."""


class DownloadError(GmmtError, OSError):
    """A file could not be had: no network, not in the mirror, or other bytes than the manifest
    states.
    """


class SettingError(GmmtError, ValueError):
    """A profile, parameter or option that does not exist or is out of range."""


class LossError(GmmtError, FloatingPointError):
    """A loss is not a finite number any more."""


class StoredError(GmmtError, ValueError):
    """Stored results do not belong together, or were made by other code than this."""


class WeightsError(GmmtError, ValueError):
    """A file of weights is not readable, or another model's."""


def did_you_mean(word: str, known) -> str:
    """Returns " Did you mean ...?" with the closest of the known words, or nothing if none is
    close.
    """
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""
