"""Orders as clients meet them: written, accepted, cancelled, shown."""
