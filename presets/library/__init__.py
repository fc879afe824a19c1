"""Presets by name or path: finding, reading, layering and saving their TOML files.

A preset is a chain of layers: its parents (`extends`), the file itself, then overrides. Every
layer is checked on its own, so an error names the file that holds the key. Shipped names are
reserved; a user's file is replaced in one step or not at all.
"""
