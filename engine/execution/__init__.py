"""Computes of a graph what its plan says, and keeps what is made."""
