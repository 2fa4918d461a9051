"""The simulator: SimPy driver, simulated device, oracle and command line."""

import superinfer as superinfer  # decides whether compiled modules are used, ours included
