"""Components that run elsewhere: what is said over the wire, and the side that asks. Torch-free to import."""
