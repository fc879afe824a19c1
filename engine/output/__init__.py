"""What a run writes: formats, names, and the program that encodes."""
