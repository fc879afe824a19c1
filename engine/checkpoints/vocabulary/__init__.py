"""The pieces that the rows of a text encoder are numbered by, in every form in which files hold them. Torch-free."""
