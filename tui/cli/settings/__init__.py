"""The options that say what a run is: its prompts, its seed, what it begins from, any setting, what fits."""
