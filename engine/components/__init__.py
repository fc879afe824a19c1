"""What a stage runs on: which components exist, what each is, and which are in memory."""
