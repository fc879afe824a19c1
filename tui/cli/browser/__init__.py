"""The app in a browser: its server and its page."""
