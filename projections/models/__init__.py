"""The projections that ship: one module for each read model, with its table."""
