"""The components that come along, one file each: umt5, clip, wan-dit, wan-vae, taehv, llama.cpp, remote."""
