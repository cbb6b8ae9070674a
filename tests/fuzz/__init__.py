"""Hostile input: frames and requests that no well-meaning client sends."""
