"""What a model costs: its blocks, its VAE, its samplers, and what saves steps and memory of them."""
