"""Which graph a run is. Torch-free."""
