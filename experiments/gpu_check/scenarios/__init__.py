"""Whole runs under memory pressure: on the device, in the simulator, and what both say of gains."""
