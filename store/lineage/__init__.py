"""Rows about runs: what was asked, what was made for it, what happened."""
