"""`modiff models`: find, inspect, check and convert the models on this machine."""
