"""What the dial between cost, speed and quality gives, from corner to corner.

    python -m experiments.dial

runs a grid of its weights where memory is short, and writes `experiments/results/simulated/dial`
with the settings that no other one beats in everything.
"""
