"""Published weight files -> modules. One file a layout; `weights.py` fills a meta module from any of them."""
