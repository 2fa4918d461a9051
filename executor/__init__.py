"""The executor: the same core on a real device."""
