"""Two runs side by side: settings, times, chains, latents, frames, pictures. It reads, and changes nothing."""
