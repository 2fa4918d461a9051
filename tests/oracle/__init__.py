"""Our model of vLLM's V1 scheduler beside the real one, step by step (see `__main__`)."""
