"""What each mechanism is worth, added one by one.

    python -m experiments.ladder

climbs from first come, first served to the whole of the scheduler and the memory manager, where
memory is short and where compute is, and writes `experiments/results/simulated/ladder`.
"""
