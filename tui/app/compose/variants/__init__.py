"""Several runs at once from what is in the form: seeds, values, where they stop."""
