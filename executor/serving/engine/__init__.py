"""The engine behind a server, which is a process of its own: both ends of the connection to it."""
