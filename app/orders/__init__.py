"""The pure domain of an order: commands, events, states, decide, evolve, obligations, money."""
