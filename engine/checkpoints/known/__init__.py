"""What the published models look like, and which of them a file holds."""
