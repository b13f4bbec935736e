"""The version of nbodykit_sr, read by setup.py and written into every output."""

__version__ = "0.1.0"
