"""A run while it is at work: what its log says so far, whether it gets on, how its end is told."""
