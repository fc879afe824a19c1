"""What people see: the `modiff` command line. Never imports torch, transformers or numpy."""
