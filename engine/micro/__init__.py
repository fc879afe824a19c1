"""The micro model: a Wan 2.1 in miniature, its words and its weights. Its recipe is `examples/micro`."""
