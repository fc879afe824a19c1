"""What can be put around a run: objects on the seams of `engine.models.seams`, chosen by name, in the order listed."""
