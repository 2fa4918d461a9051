"""The command line `superinfer-sim`: one module per group of commands; `app` puts them together."""
