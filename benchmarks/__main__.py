"""`python -m benchmarks [score] [fusion] [track] [trackers] [loader] [device]`: prints each
measurement beside its yardstick.
"""

import argparse
import importlib

NAMES = ("score", "fusion", "track", "trackers", "loader", "device")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one or more of: {', '.join(NAMES)} (default: all)",
    )
    names = parser.parse_args().names or list(NAMES)
    for name in names:
        if name not in NAMES:
            parser.error(f"no benchmark {name!r}; choose from {', '.join(NAMES)}")
        importlib.import_module(f"benchmarks.{name}").main()
