"""The documents as a page for people, which needs nothing but itself."""
