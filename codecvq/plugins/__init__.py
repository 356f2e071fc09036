"""Loads plugins and looks up their registrations."""

from codecvq.api.hookspecs import PROJECT
from codecvq.plugins.host import KINDS, Registry, load, registry
from codecvq.plugins.registration import Origin, Registration
from codecvq.plugins.specs import MAX_SPECS_PER_HOOK

__all__ = ["KINDS", "MAX_SPECS_PER_HOOK", "PROJECT", "Origin", "Registration", "Registry", "load", "registry"]
