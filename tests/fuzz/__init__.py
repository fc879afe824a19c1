"""Files of strangers, changed at random: what reads them takes them or refuses them in one line, and never else."""
