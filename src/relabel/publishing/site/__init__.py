"""Static pages made from an export folder, and from nothing else."""
