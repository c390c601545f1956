"""The study: one graph of notebooks, profiles and seeds (Snakefile, batch.py), and what judges its
results (seeds.py, claims.py).
"""
