"""OrderTape: an event-sourced order execution engine."""
