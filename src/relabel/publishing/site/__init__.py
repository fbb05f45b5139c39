"""A static site, built from an export folder only."""
