"""The panels of one run, live or past: Live and Runs show them."""
