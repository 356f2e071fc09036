"""Paths that a user types: checked before any work begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from codecvq.errors import CodecvqError
from codecvq.escaping import printable


def typed_path(text: str | Path) -> Path:
    """The path that is meant, `~` expanded. Raises typer.BadParameter for what no path can be."""
    if "\0" in str(text):
        raise typer.BadParameter(f"{printable(str(text))!r} has a NUL character, which no path may have.")
    if not str(text):
        raise typer.BadParameter("the path is empty. Give one; '.' is the current folder.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{printable(str(text))}: there is no such user or home folder.") from error


def writable_folder(folder: Path) -> Path:
    """The folder, found to take files or, where it is still to be made, to be possible: said before hours of
    work. Nothing is left there.
    """
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path())
    if not existing.is_dir():
        raise CodecvqError(f"the output folder {folder}: {existing} is a file. Give another folder.")
    try:
        with tempfile.TemporaryFile(dir=existing, prefix=".codecvq-"):
            pass
    except OSError as error:
        raise CodecvqError(
            f"the output folder {folder} cannot be written ({error.strerror}). Give another, or change that."
        ) from error
    return folder
