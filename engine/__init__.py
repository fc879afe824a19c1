"""What executes a run: a graph of stages on components, models, schedulers, and the engine process."""
