"""The batch: one graph of notebooks, profiles and seeds (Snakefile), and what its rules do (batch.py)."""
