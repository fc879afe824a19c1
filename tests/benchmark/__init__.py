"""Benchmarks: runnable scripts, each against a named peer in the same process and run."""
