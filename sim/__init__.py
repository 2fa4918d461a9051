"""The simulator: SimPy driver, simulated device, oracle and command line."""
