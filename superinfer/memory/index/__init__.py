"""The index of prefixes: content ids, the compressed radix tree over them, and its second tier."""
