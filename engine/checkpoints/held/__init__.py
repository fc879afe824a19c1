"""How the weights of a model are held in memory: as numbers, packed, or rounded as they are loaded."""
