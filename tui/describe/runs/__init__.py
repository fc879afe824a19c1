"""What both faces say of runs: their rows and lines, their state by their log, what tells them apart."""
