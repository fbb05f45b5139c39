"""Engines: the ways in which requests become answers."""
