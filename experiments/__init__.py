"""Reproducible studies: profile fitting and the benchmark."""
