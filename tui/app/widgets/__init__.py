"""Widgets that draw themselves from plain data and answer with messages. Nothing here knows of runs."""
