"""What a free tier gets beside a paying one and a hostile tenant, and what that costs.

    python -m experiments.fairness

writes `experiments/results/simulated/fairness`. docs/fairness.md says what to make of it.
"""
