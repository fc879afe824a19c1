"""What is said of a run's prompts: their words, what a language model made of them."""
