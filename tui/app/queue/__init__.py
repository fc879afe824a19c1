"""The screen of what waits."""
