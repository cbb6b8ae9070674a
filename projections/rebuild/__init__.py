"""Rebuilding: a projection built anew beside the live one, proven equal, swapped in, and brought back if need be."""
