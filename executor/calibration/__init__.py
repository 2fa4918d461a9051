"""Measuring a device: kernels, copies and host work, written as a profile that the core reads."""
