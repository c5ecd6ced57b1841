"""The largest picture: what is read can be compressed, too."""

MAX_SIDE = 1 << 16
MAX_PIXELS = 1 << 26
"""67 megapixels, for example 8192×8192."""
