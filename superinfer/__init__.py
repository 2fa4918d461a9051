"""Scheduling and memory policies for LLM serving: the core. It has no clock and does no I/O."""
