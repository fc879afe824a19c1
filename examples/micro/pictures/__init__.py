"""The image-to-video siblings: what begins from a picture, or goes from one to another."""
