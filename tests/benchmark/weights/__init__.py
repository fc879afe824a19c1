"""What weights cost: reading, loading, swapping, and which of them fit."""
