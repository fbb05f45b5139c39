"""Careers: job families, their exposure, pay and projections, human advantage, and resilience."""
