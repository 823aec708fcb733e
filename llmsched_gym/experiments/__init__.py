"""Many comparisons in one: the experiments of the paper."""
