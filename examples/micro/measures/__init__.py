"""Measures: what a clip shows by its pixels, the gates, and the sheets that people look at."""
