"""`superinfer-exec quality`: what fewer bits for keys and values cost in answers."""
