"""What knows of HTTP: routes, bodies, what is turned away, and replies."""
