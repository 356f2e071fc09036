"""Files that are whole or absent, and names for files that a stranger chose.

`atomic_file` writes under a temporary name in the same folder, syncs, and renames. `file_name` and
`path_inside` turn text from data (an id, a codec's name) into a path that stays inside a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codecvq.errors import SymlinkError

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay
    fcntl = None  # type: ignore[assignment]

LONGEST_NAME = 255  # bytes of a name, on every usual filesystem
LONGEST_SUFFIX = 16  # characters of a suffix that a temporary file repeats
#: characters that some filesystem or terminal treats as more than a character
_SPECIAL = re.compile(
    r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff<>:"|?*\\/]'
)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names of Windows


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """An empty temporary file beside `path`; it is renamed to `path` when the block ends without an error.

    The temporary file is created exclusively under a random name, so no link is followed and no other
    writer's file is touched. It stays locked while its writer lives, so that `stale_temporary_files`
    can tell the files of killed processes from those being written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _create_temporary(path)
    try:
        yield temporary
        os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:  # of a full disk, say: it names the file that was to be written
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`: a process killed at any moment leaves the old file or the new one.

    Text is UTF-8. Lone surrogates, from file names that are not UTF-8, are written as `\\udc80`, as JSON has
    them.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def stale_temporary_files(path: Path) -> list[Path]:
    """Temporary files that killed processes left when they wrote `path`; those of living writers are not
    among them.
    """
    return [left for left in path.parent.glob(f".{_digest(path.name)}-*") if not _is_locked(left)]


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def path_without_links(folder: Path, *names: str) -> Path:
    """`folder/name/…`, no part of which below `folder` is a link: what is written there stays in the folder.

    The folder may be a stranger's, from an archive that held links. Raises SymlinkError for one.
    """
    path = folder
    for name in names:
        path = path / name
        if path.is_symlink():
            raise SymlinkError(
                f"{path} is a link to {os.readlink(path)}, and nothing is written through a link inside a "
                "folder. Remove it, or give another folder."
            )
    return path


def file_name(text: str, suffix: str = "") -> str:
    """A name for one file, with `suffix`, from any text.

    Separators, control characters, drive letters, `..`, reserved names, lone surrogates and lengths that a
    filesystem refuses do not get through. A text that is a good name is kept as it is. From any other the
    result ends in a hash of the text, so that different texts stay different names.
    """
    name = _SPECIAL.sub("_", text if suffix else text.rstrip(". "))  # Windows drops dots at the end
    good = name == text and text and not _RESERVED.fullmatch(text)
    if good and len((name + suffix).encode()) <= LONGEST_NAME:
        return name + suffix
    tail = f"~{_digest(text)}{suffix}"
    kept = name.lstrip(".").encode()[: 200 - len(tail)].decode(errors="ignore")
    return f"{'_' if _RESERVED.fullmatch(kept) else ''}{kept}{tail}"


def path_inside(folder: Path, text: str, suffix: str = "") -> Path:
    """A path inside `folder` from any text: slashes make folders, and each part goes through `file_name`.

    Different texts give different paths.
    """
    *folders, last = text.split("/")
    if not all((*folders, last)):  # an absolute path, or an empty part: one name for the whole text
        return folder / file_name(text, suffix)
    return folder.joinpath(*map(file_name, folders), file_name(last, suffix))


def _create_temporary(path: Path) -> tuple[int, Path]:
    """A new file that this process has locked: its descriptor and its path."""
    suffix = path.suffix if len(path.suffix) <= LONGEST_SUFFIX else ""
    while True:
        temporary = path.with_name(f".{_digest(path.name)}-{secrets.token_hex(8)}{suffix}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # another process may have removed it before it was locked
            return descriptor, temporary
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_locked(path: Path) -> bool:
    """Whether a living process writes the file. Without locks every file counts as being written."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
