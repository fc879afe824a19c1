"""`modiff store`: see what takes space, check it, give it back, take it elsewhere."""
