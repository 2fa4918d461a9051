"""What the studies have in common: options, cached runs, measures, pictures, recorded files."""
