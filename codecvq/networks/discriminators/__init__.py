"""Discriminators, which learn to distinguish decoded audio from recorded audio; one file each."""
