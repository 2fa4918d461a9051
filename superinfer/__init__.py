"""Scheduling and memory policies for LLM serving: the core. It has no clock and does no I/O."""

from superinfer.compiled import choose_form

COMPILED = choose_form()
"""True if the modules of the hot path run as machine code."""
