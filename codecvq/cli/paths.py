"""Checks of paths given by users, before any work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from codecvq.errors import CodecvqError
from codecvq.escaping import printable


def typed_path(text: str | Path) -> Path:
    """Convert an argument to a path and expand `~`. Raises typer.BadParameter for an invalid path."""
    if "\0" in str(text):
        raise typer.BadParameter(
            f"{printable(str(text))!r} contains a NUL character, which paths cannot have."
        )
    if not str(text):
        raise typer.BadParameter("the path is empty. Use '.' for the current folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{printable(str(text))}: no such user or home folder.") from error


def writable_folder(folder: Path) -> Path:
    """Check that `folder` is writable or can be created, and return it.

    Raises CodecvqError before hours of work are lost. Creates no permanent files.
    """
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path())
    if not existing.is_dir():
        raise CodecvqError(f"the output folder {folder}: {existing} is a file. Choose another folder.")
    try:
        with tempfile.TemporaryFile(dir=existing, prefix=".codecvq-"):
            pass
    except OSError as error:
        raise CodecvqError(
            f"the output folder {folder} is not writable ({error.strerror}). Choose another folder, or "
            "change its permissions."
        ) from error
    return folder
