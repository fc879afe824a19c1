"""What to run: the run specification and the preset library; imports neither torch nor ours."""
