"""One module for each command of `modiff`, imported when the command is used and not before."""
