"""The formats of traces, each in a module: what its lines or files say, as records."""
