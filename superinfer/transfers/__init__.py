"""Copies between device and host: what is queued on the link, and what the host has already."""
