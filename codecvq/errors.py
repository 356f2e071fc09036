"""Exceptions for user errors. The command line prints them as one line and exits with code 2."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "AudioError",
    "BitstreamError",
    "CodecError",
    "CodecvqError",
    "CorpusError",
    "FolderInUse",
    "MissingExtra",
    "MissingProgram",
    "NonFiniteError",
    "OptionError",
    "PluginError",
    "RecipeError",
    "RunError",
    "ShapeError",
    "StreamingError",
    "SymlinkError",
    "TokensError",
    "UnknownName",
    "install_advice",
    "nearest",
]


class CodecvqError(Exception):
    """Base class of user errors. The text says what was given, what is needed and what to do."""


class PluginError(CodecvqError):
    """A plugin did not load, two plugins register the same name, or a registration is invalid."""


class UnknownName(CodecvqError):
    """No plugin registers the name for this kind."""


class OptionError(CodecvqError):
    """An option of a quantizer, network, loss or other part is unknown or has an invalid value."""


class ShapeError(CodecvqError):
    """A tensor or argument has the wrong shape, type or range."""


class NonFiniteError(CodecvqError):
    """A tensor contains NaN or infinity where finite numbers are needed."""


class RecipeError(CodecvqError):
    """A recipe cannot be read, has an unknown key, or an invalid value."""


class CorpusError(CodecvqError):
    """A corpus is missing, empty, or does not match its manifest."""


class AudioError(CodecvqError):
    """A file is not audio, cannot be decoded, has no samples, or exceeds a limit."""


class CodecError(CodecvqError):
    """A codec folder is incomplete, of another version, or does not fit the given codes or audio."""


class RunError(CodecvqError):
    """A run folder cannot be resumed, or a training run had to stop."""


class StreamingError(CodecvqError):
    """A codec, network or quantizer cannot process streams; the text says why."""


class BitstreamError(CodecvqError):
    """A .cvq file is damaged, truncated, or encoded by another codec."""


class TokensError(CodecvqError):
    """A token dataset is incomplete, or encoded by another codec."""


class FolderInUse(CodecvqError):
    """Another process holds the lock of the folder."""


class SymlinkError(CodecvqError):
    """An output path inside a folder is a symbolic link."""


class MissingExtra(CodecvqError):
    """A package is needed that an extra of codecvq installs, and it is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed. Install it with: pip install "
            f"'codecvq[{extra}]'"
        )


class MissingProgram(CodecvqError):
    """A required system program is not installed."""

    def __init__(self, what: str, program: str, install: str) -> None:
        super().__init__(
            f"{what} needs the program {program!r}, which is not installed. Install it with: {install}"
        )


def install_advice(distribution: str) -> str:
    """Return how to install a distribution that a file or a plugin names.

    The advice contains a `pip install` command only if the name is a valid distribution name: an untrusted
    text could contain pip options or another command.
    """
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", distribution, re.ASCII):
        return f"Install it with: pip install {distribution}"
    return f"{distribution!r} is not a valid package name, so nothing can be installed"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest known word, or "", to append to a sentence."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6) or [
        w for w in words if w.startswith(word)
    ]
    return f" Did you mean {close[0]!r}?" if close else ""
