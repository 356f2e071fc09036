"""Atomic file writes, and safe file names from untrusted text.

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
except ImportError:  # Windows: temporary files of killed processes are not removed
    fcntl = None  # type: ignore[assignment]

MAX_NAME_BYTES = 255  # bytes of a file name, the limit of common filesystems
MAX_SUFFIX_LENGTH = 16  # characters of a suffix that a temporary file copies
#: characters with a special meaning for some filesystem or terminal
_SPECIAL = re.compile(
    r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff<>:"|?*\\/]'
)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names of Windows


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file next to `path`; rename it to `path` if the block ends without an error.

    The temporary file is created exclusively under a random name, so no link is followed and no file of
    another writer is changed. It stays locked while its process runs: `stale_temporary_files` uses the lock
    to distinguish files of killed processes from files being written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _create_temporary(path)
    try:
        yield temporary
        os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:  # for example a full disk; the error names the target file
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)
    sync_folder(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`; a process killed at any time leaves either the old file or the new one.

    Text is encoded as UTF-8. Lone surrogates, from file names that are not UTF-8, are written as `\\udc80`,
    as in JSON.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def stale_temporary_files(path: Path) -> list[Path]:
    """Return the temporary files that killed processes left while they wrote `path`.

    Files that a running process is writing are not included.
    """
    return [file for file in path.parent.glob(f".{_digest(path.name)}-*") if not _is_locked(file)]


def sync_folder(folder: Path) -> None:
    """Sync `folder`, so that renames in it persist after a power failure. Does nothing on Windows."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def path_without_links(folder: Path, *names: str) -> Path:
    """Return `folder/name/…`. Raises SymlinkError if a part below `folder` is a symbolic link.

    Writing to the returned path stays inside the folder, even if the folder is untrusted, for example from an
    archive that contained links.
    """
    path = folder
    for name in names:
        path = path / name
        if path.is_symlink():
            raise SymlinkError(
                f"{path} is a link to {os.readlink(path)}; codecvq does not write through links inside a "
                "folder. Remove it, or give another folder."
            )
    return path


def file_name(text: str, suffix: str = "") -> str:
    """Return a valid name of one file, with `suffix`, for any text.

    The result contains no separators, control characters, drive letters, `..`, reserved names or lone
    surrogates, and is not longer than filesystems allow. A valid name is returned unchanged. Any other result
    ends in a hash of the text, so that different texts give different names.
    """
    name = _SPECIAL.sub("_", text if suffix else text.rstrip(". "))  # Windows drops dots at the end
    valid = name == text and text and not _RESERVED.fullmatch(text)
    if valid and len((name + suffix).encode()) <= MAX_NAME_BYTES:
        return name + suffix
    tail = f"~{_digest(text)}{suffix}"
    stem = name.lstrip(".").encode()[: 200 - len(tail)].decode(errors="ignore")
    return f"{'_' if _RESERVED.fullmatch(stem) else ''}{stem}{tail}"


def path_inside(folder: Path, text: str, suffix: str = "") -> Path:
    """Return a path inside `folder` for any text. Slashes separate folders; `file_name` makes each part.

    Different texts give different paths.
    """
    *folders, last = text.split("/")
    if not all((*folders, last)):  # an absolute path or an empty part: use one name for the whole text
        return folder / file_name(text, suffix)
    return folder.joinpath(*map(file_name, folders), file_name(last, suffix))


def _create_temporary(path: Path) -> tuple[int, Path]:
    """Create a file that this process has locked. Returns its descriptor and path."""
    suffix = path.suffix if len(path.suffix) <= MAX_SUFFIX_LENGTH else ""
    while True:
        temporary = path.with_name(f".{_digest(path.name)}-{secrets.token_hex(8)}{suffix}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # 0 links: another process removed it before the lock
            return descriptor, temporary
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_locked(path: Path) -> bool:
    """Whether a running process is writing the file. Always True on systems without file locks."""
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
