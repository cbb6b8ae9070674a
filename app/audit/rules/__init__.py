"""What must hold between an order's state and its next event, beyond the lifecycle: each decision made once more."""
