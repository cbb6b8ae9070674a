"""Servers that tests may kill, freeze, fail over and cut off."""
