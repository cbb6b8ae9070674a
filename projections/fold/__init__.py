"""Folding published events into the state of orders: pure, no database."""
