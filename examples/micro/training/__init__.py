"""Training: what it learns from, the two loops, and what they share."""
