"""Delivering events: one reader of the log, a ring that all subscribers share, and who is served from it."""
