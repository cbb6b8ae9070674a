"""The doctor: whether these servers and settings can keep what the engine promises, and what to change where not."""
