"""Trackers that GMMT is attached to."""
