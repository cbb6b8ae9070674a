"""The simulated pools: Raydium's constant product, Meteora's bins, and those that launched tokens trade in."""
