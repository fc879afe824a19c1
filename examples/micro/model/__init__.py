"""The model: its networks and words, and its files as they ship."""
