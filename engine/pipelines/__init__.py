"""The stages of a run and the runner that executes them."""
