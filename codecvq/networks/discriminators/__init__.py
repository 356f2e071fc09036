"""Discriminators: networks that learn to tell decoded audio from recorded, a file each."""
