"""What a run takes in memory, told by running its code without numbers."""
