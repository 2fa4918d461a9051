"""Request traces: reading, describing and converting them, and the bundled samples.

`traces.readers.read_trace` reads one; nothing heavy is imported before it is needed.
"""
