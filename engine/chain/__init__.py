"""What is special to a chain of steps: replaying it, storing it beside the loop, thinning it, showing it."""
