"""Around the core: configuration, result folders, plots, tables and gates."""
