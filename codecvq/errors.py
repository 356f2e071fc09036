"""What can go wrong for a user, as exceptions that the command line prints in one line and leaves with exit
2.
"""

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
    "SymlinkError",
    "TokensError",
    "UnknownName",
    "install_advice",
    "nearest",
]


class CodecvqError(Exception):
    """A user's error: its text says what was given, what is needed and what to do."""


class PluginError(CodecvqError):
    """A plugin did not load, two plugins offer one name, or a plugin offers what this codecvq does not
    understand.
    """


class UnknownName(CodecvqError):
    """Nothing of that kind is registered under the name."""


class OptionError(CodecvqError):
    """An option of a quantizer, network or metric is unknown or has a value that cannot work."""


class ShapeError(CodecvqError):
    """A tensor has another shape, type or range than the call needs."""


class NonFiniteError(CodecvqError):
    """NaN or infinity where numbers are needed."""


class RecipeError(CodecvqError):
    """A recipe cannot be read, has a key that does not exist, or a value that cannot work."""


class CorpusError(CodecvqError):
    """A corpus is missing, empty, or not what its manifest says."""


class AudioError(CodecvqError):
    """A file is not audio, cannot be decoded, or has no samples."""


class CodecError(CodecvqError):
    """A codec folder is incomplete, of another version, or does not fit the codes or audio given."""


class RunError(CodecvqError):
    """A run folder cannot be resumed, or a training had to stop."""


class BitstreamError(CodecvqError):
    """A .cvq file is damaged, truncated, or of another codec."""


class TokensError(CodecvqError):
    """A token dataset is incomplete, or of another codec."""


class FolderInUse(CodecvqError):
    """Another process writes into the folder."""


class SymlinkError(CodecvqError):
    """A part of a folder, where results are to be written, is a link to another place."""


class MissingExtra(CodecvqError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed. Install it with: pip install "
            f"'codecvq[{extra}]'"
        )


class MissingProgram(CodecvqError):
    """A program of the system is needed and not installed."""

    def __init__(self, what: str, program: str, install: str) -> None:
        super().__init__(
            f"{what} needs the program {program!r}, which is not installed. Install it with: {install}"
        )


def install_advice(distribution: str) -> str:
    """What to do to get a distribution that a file or a plugin names. The name is repeated as a command only
    if it is one: in a text of a stranger it could be options of pip, or another command.
    """
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", distribution, re.ASCII):
        return f"Install it with: pip install {distribution}"
    return f"{distribution!r} is no name of a package: there is nothing to install"


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the closest known word, or nothing: to be put behind a sentence."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6) or [
        w for w in words if w.startswith(word)
    ]
    return f" Did you mean {close[0]!r}?" if close else ""
