"""The components that are in memory: which stay, what they take, and where their blocks and copies are."""
