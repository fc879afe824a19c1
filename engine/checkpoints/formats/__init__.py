"""Files of weights as named tensors: safetensors, GGUF, pickled state dicts; nothing is unpickled."""
