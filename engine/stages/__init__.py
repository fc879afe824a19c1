"""What the stages do: tensors in, tensors out. Imported when something is to be computed (`engine.execution.jobs`)."""
