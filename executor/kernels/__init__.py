"""Triton kernels, one family per file, each with a torch reference of the same signature."""
