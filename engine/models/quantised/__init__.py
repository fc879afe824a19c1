"""Weights that stay packed in memory and become numbers at each call."""
