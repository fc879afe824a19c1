"""A longer prompt in the words of a language model: who is asked, and what is made of the answer."""
