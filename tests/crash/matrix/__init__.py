"""The crash matrix: real processes that die, or stand still, at every crash point, for every outcome of their swaps."""
