"""Blocks as numbers: how many there are, who has them, how large they are with fewer bits."""
