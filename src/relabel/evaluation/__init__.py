"""Evaluation of runs: reference labels (golds), alignment, metrics, gates, comparison, review and reports."""
