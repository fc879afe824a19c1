"""Models as people are told of them: what is here, what is known of its files, what is to be had first."""
