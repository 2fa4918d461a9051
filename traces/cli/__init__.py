"""`superinfer-sim traces`: one module per group of commands; `app` puts them together."""
