"""What a run leaves behind: how it is written down, and the records of replicas put together."""
