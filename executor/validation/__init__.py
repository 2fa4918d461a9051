"""The same trace on a device and in the simulator, metric by metric."""
