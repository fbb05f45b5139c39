"""Suites of gates: what is read, how a run is judged, and how CI is told."""
