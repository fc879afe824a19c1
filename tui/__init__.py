"""What people see, twice: the command line (`cli`) and the Textual app (`app`). What both say is said in `describe`.
Never imports torch, transformers or numpy."""
