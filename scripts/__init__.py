"""Maintainer scripts of codecvq."""
