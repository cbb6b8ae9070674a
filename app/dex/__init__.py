"""Simulated Solana venues, the router that chooses between them, and the simulated chain that executes swaps."""
