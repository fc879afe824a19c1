"""Block swap: some blocks of a model stay on its device, the others come to it for each call."""
