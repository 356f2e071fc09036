"""What a machine with a GPU and without a network needs: see README.md."""
