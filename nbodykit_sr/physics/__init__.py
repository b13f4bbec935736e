"""Cosmology and units: the background, the universe that a header describes, linear power, masses."""
