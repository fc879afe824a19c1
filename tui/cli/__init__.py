"""The command line of `modiff`."""
