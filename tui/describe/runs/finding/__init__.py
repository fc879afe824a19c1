"""How runs are found and listed: the names of settings, filters, columns."""
