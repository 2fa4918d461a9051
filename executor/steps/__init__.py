"""One step on a device: packed on the host, sent, run through the model or a graph, sampled."""
