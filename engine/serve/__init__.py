"""Components of this machine for others, over HTTP (docs/remote.md)."""
