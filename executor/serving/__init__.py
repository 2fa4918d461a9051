"""A model behind HTTP: an engine in a thread of its own, and the interface of OpenAI before it."""
