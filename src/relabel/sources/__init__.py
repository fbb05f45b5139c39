"""Public data that the project works on: the registry, the files, and one reader a publisher."""
