"""What clients that were written for other engines of this kind connect to, and what they read."""
