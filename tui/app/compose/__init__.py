"""The compose screen: a preset, every field of a run, what that would compute."""
