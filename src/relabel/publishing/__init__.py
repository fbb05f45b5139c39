"""Score tables, pages of occupations and a data package, made from a run."""
