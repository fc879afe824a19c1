"""Checkpoints written in another layout or number format."""
