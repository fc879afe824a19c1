"""What executes a run: components, models, schedulers, pipelines, and the engine process."""
