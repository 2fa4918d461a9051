"""Every operation against float64, on fresh random inputs, over memory full of NaN."""
