"""The recipe of the micro model: its world, its training, its measures. `python -m examples.micro`, from the root."""
