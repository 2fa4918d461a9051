"""Traces of the logs of other systems, whose columns have names of their own."""
