"""A study: one file names tasks, raters, golds and scoring; its runs, results and replication package follow from it."""
