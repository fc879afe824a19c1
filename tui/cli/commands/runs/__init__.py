"""Commands that make runs, show them and change what is known of them."""
