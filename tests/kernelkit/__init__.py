"""Cases for the attention kernels, for tests on any device."""
