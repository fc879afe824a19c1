"""Immutable files named by their bytes, and tensors as such bytes."""
