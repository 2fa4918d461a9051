"""The table of the article, by simulation: latency, throughput, peak KV and attainment of ours and
its rivals, on Llama-3.1-70B, for four kinds of traffic, on Mixtral 8x7B and on Flan-T5.

    python -m experiments.headline

writes `experiments/results/simulated/headline`. docs/headline.md says what to make of it.
"""
