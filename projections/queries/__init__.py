"""Reads of the read models, for the API and the command line, and how fresh what they return is."""
