"""Variants of kernels side by side, each checked before it is timed.

What wins here becomes the entry of a tile table, or with `--adopt` that of one call.
"""
