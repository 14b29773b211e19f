"""Labelling, particles, matching, thresholds."""
