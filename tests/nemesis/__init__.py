"""A nemesis: real servers and processes under drawn faults, and a checker that remembers what was promised."""
