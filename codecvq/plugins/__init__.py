"""Plugins: finding them, loading them, and what they offer."""

from codecvq.api.hookspecs import PROJECT
from codecvq.plugins.host import KINDS, Registry, load, registry
from codecvq.plugins.offer import Offer, Origin
from codecvq.plugins.specs import MOST_OFFERS

__all__ = ["KINDS", "MOST_OFFERS", "PROJECT", "Offer", "Origin", "Registry", "load", "registry"]
