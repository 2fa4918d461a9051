"""Many runs: what is varied, how it is run and stored, and what it shows about differences."""
