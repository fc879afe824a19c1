"""The screen of all runs, with what can be done with them: details, branch, compare."""
