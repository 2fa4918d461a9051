"""Metrics of a finished run: the numbers of `summary.json` and the rows of `requests.parquet`."""

from superinfer.metrics.columns import request_columns
from superinfer.metrics.summary import RunMetrics, summarise
from superinfer.metrics.window import Window

__all__ = ["RunMetrics", "Window", "request_columns", "summarise"]
