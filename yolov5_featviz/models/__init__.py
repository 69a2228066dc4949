"""Models of any family: their layers, what layers return, hooks, and loading by name."""
