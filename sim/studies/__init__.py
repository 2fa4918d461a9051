"""What commands do with many runs: compare, sweep, tune, plan, suggest targets, vary one input."""
