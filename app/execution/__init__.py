"""The work on orders: their streams, the worker, the order process, the submission of swaps."""
