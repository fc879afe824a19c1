"""What becomes of runs that a command has queued: how they are followed, and how that is told."""
