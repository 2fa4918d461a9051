"""What is told of a run beside its figures: what its step times rest on, which settings and fields
count for nothing, and where a comparison or a load says less than it seems to.
"""
