"""Losses between the reference and the decoded audio."""
