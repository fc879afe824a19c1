"""How the numbers of a file are packed: what lies beside a weight and says so. Torch-free, but for `unpacking`."""
