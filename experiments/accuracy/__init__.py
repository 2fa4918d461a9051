"""How close the simulator comes to measured systems: `python -m experiments.accuracy PART`."""
