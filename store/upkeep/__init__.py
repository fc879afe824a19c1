"""What is stored, who needs it, and how space is given back."""
