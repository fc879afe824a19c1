"""Pictures and videos that somebody gives. Torch-free."""
