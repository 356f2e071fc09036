"""Recipes, corpora, losses, the loop and its run folder: from a YAML file to a trained codec."""
