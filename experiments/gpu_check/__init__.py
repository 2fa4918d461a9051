"""What only a real GPU can show, in parts: `python -m experiments.gpu_check --out DIR`."""
