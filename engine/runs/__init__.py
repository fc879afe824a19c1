"""What is asked about whole runs: what one will take, where it can be branched, a sweep of them, one computed again,
how one is watched."""
