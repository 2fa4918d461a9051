"""The model that ships with the executor: its text, its training, and the page about it."""
