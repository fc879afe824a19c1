"""The screen of what takes space."""
