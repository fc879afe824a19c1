"""The settings of a run by their dotted keys: all of them, changes to them, and what older names mean."""
