"""Scripts for a GPU machine without a network; see README.md."""
