"""Bundles: runs and what they made as one file, for another store.

A bundle is a zip of unpacked members: `manifest.json` (store.bundle.manifest) and one
`blobs/<SHA-256>` for each blob. It names no path, machine or person. What comes in is read as the
work of a stranger: refused whole, or imported whole.
"""
