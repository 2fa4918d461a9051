"""The same functions in plain torch: the truth for tests, and what runs on a CPU."""
