"""Training of codecs: recipes, losses, the training loop and the run folder."""
