"""GMMT: generative-based fusion for multi-modal tracking (AAAI 2024), reproduced.

Importing this package is cheap: nothing here imports torch, pandas or matplotlib.
"""

__version__ = "0.1.0"
