"""Connections to Redis servers, built on the low level of redis-py: who is asked, over which connection, how often."""
