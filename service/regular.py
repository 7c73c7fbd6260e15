"""Regular files: read whole, up to a size; pipes, devices and sockets are refused immediately."""

import hashlib
import os
import stat
from pathlib import Path

from service.errors import BadModel


def read_regular(path: Path, most_bytes: int, *, sealed: bool = False) -> bytes:
    """The content of one file of a model folder.

    Args:
        sealed: also refuse symbolic links and files with several hard links.

    Raises:
        BadModel: it is missing, not a regular file, too large, or changed while it was read.
    """
    if sealed and path.is_symlink():
        raise BadModel(f"{path}: is a symbolic link; replace it by the file itself")
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (os.O_NOFOLLOW if sealed else 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadModel(f"{path}: not a regular file")
            if sealed and found.st_nlink != 1:
                raise BadModel(f"{path}: has {found.st_nlink} hard links; replace it by a copy")
            if found.st_size > most_bytes:
                raise BadModel(f"{path}: {found.st_size:,} bytes; the limit is {most_bytes:,}")
            content = file.read(found.st_size + 1)
    except OSError as error:
        raise BadModel(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) != found.st_size:
        raise BadModel(f"{path}: changed while it was read")
    return content


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
