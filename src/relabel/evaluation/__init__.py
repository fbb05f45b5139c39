"""How far a run agrees with a gold: gold sets, matching, metrics, and the eval document that holds the result."""
