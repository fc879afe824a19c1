"""What the engine is used for: three lines from a preset to a video, and a model made from nothing."""
