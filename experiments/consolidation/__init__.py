"""One cluster for chat and one for batch work, against one that both share.

    python -m experiments.consolidation

writes `experiments/results/simulated/consolidation`. docs/cluster.md says what to make of it.
"""
