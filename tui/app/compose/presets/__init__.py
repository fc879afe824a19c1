"""The preset that the form is of: its file, and a new one of what is in the form."""
