"""Public data sources: the registry, the files, one reader per publisher, and tables that users provide."""
