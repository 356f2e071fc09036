"""Plugins: finding them, loading them, and what they offer."""

from codecvq.plugins.host import KINDS, MOST_OFFERS, PROJECT, Registry, load, registry

__all__ = ["KINDS", "MOST_OFFERS", "PROJECT", "Registry", "load", "registry"]
