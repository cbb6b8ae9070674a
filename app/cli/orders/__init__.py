"""Commands about single orders, and what they print."""
