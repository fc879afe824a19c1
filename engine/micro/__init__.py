"""The micro model: a Wan 2.1 in miniature, its world, its recipe and its weights."""
