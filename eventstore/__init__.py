"""Append-only event streams on Redis: dense positions, hash chains, tasks, timers. Knows nothing of orders."""
