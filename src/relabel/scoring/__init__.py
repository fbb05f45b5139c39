"""Scores of occupations from a run's labels."""
