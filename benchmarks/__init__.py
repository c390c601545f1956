"""Ours beside its yardstick, in one run on one machine: `python -m benchmarks NAME`. Ratios are
what counts; seconds are this machine's.
"""
