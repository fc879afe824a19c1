"""Between the app and the terminal: what comes in as keys, what goes out as text and colours."""
