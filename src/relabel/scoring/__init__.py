"""Occupation scores computed from a run's labels."""
