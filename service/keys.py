"""API keys: which clients may use the service, and for what.

python -m service.keys add NAME --scope infer
"""

import argparse
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from service.errors import OperatorError

logger = logging.getLogger(__name__)

# infer: query models; admin: load, unload and route models; metrics: read /metrics
Permission = Literal["infer", "admin", "metrics"]
PERMISSIONS = get_args(Permission)

NAME = re.compile("[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the file: `NAME SCOPE,SCOPE SALT HASH`, the last two in hexadecimal digits."""

    name: str
    scopes: frozenset[str]
    salt: bytes
    hash: bytes


# An unknown name is compared with this key, so that its refusal takes as long as a known name's.
DUMMY = Key("", frozenset(), secrets.token_bytes(16), secrets.token_bytes(32))


class Keys:
    """The keys of a file. The file is read again after it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises:
        OperatorError: the file is missing, or a line is malformed.
        """
        self._path = path
        self._seen = _fingerprint(path)
        self._keys = read_keys(path)

    def find(self, given: str) -> Key | None:
        """The key that matches `NAME.SECRET`; None if there is none."""
        self._refresh()
        name, _, secret = given.partition(".")
        key = self._keys.get(name, DUMMY)
        return key if hmac.compare_digest(hash_secret(secret, key.salt), key.hash) else None

    def _refresh(self) -> None:
        seen = _fingerprint(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(self._path)
        except OperatorError as error:  # the file can be half written
            logger.error("%s; the previous keys stay valid", error)
        else:
            logger.info("%s: %d keys", self._path, len(self._keys))


def hash_secret(secret: str, salt: bytes) -> bytes:
    """The hash that the file stores instead of the secret: 32 bytes.

    A fast hash is enough, because a secret of 256 random bits cannot be guessed. A slow hash, as
    for passwords, lets any client keep the service busy.
    """
    return hashlib.blake2b(secret.encode(), digest_size=32, salt=salt).digest()


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file, by name. Empty lines and lines that start with # are skipped.

    Raises:
        OperatorError: the file is missing, or a line is malformed.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise OperatorError(f"SENSORIUM_KEYS: the key file cannot be read: {error}") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = _parse(line)
        except ValueError as error:
            raise OperatorError(f"{path}, line {number}: {error}") from error
        if key.name in keys:
            raise OperatorError(f"{path}, line {number}: duplicate key name {key.name}")
        keys[key.name] = key
    return keys


def add_key(path: Path, name: str, scopes: Sequence[str]) -> str:
    """Append a new key to the file, and return the key. A missing file is created.

    Raises:
        OperatorError: the name is invalid or exists already, or the file is malformed.
        OSError: the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise OperatorError(f"{name!r}: a name has 1 to 64 of the characters A-Z, a-z, 0-9, _ -")
    path.touch(0o600)
    if name in read_keys(path):
        raise OperatorError(f"{path} already has a key {name}; remove its line or choose a name")
    secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    line = f"{name} {','.join(scopes)} {salt.hex()} {hash_secret(secret, salt).hex()}\n"
    text = path.read_text()
    with path.open("a") as file:
        file.write(f"\n{line}" if text and not text.endswith("\n") else line)
    return f"{name}.{secret}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m service.keys", description="Manage API keys.")
    add = parser.add_subparsers(required=True).add_parser("add", help="create a key and print it")
    add.add_argument("name", help="name of the client; the access log shows it")
    add.add_argument(
        "--scope",
        action="append",
        choices=PERMISSIONS,
        help="a permission of the key; may be repeated (default: infer)",
    )
    add.add_argument(
        "--file",
        type=Path,
        default=os.environ.get("SENSORIUM_KEYS"),
        help="the key file (default: SENSORIUM_KEYS)",
    )
    asked = parser.parse_args(arguments)
    if asked.file is None:
        parser.error("give --file, or set SENSORIUM_KEYS")
    try:
        print(add_key(asked.file, asked.name, asked.scope or ["infer"]))
    except (OperatorError, OSError) as error:
        sys.exit(str(error))


def _parse(line: str) -> Key:
    """Raises:
    ValueError: the line is malformed; the message does not quote it.
    """
    parts = line.split()
    if len(parts) != 4 or not NAME.fullmatch(parts[0]):
        raise ValueError("expected NAME SCOPE,SCOPE SALT HASH")
    name, scopes, salt, digest = parts
    if unknown := set(scopes.split(",")) - set(PERMISSIONS):
        raise ValueError(f"unknown scope {min(unknown)}; the scopes are {', '.join(PERMISSIONS)}")
    key = Key(name, frozenset(scopes.split(",")), bytes.fromhex(salt), bytes.fromhex(digest))
    if (len(key.salt), len(key.hash)) != (16, 32):
        raise ValueError("the salt must have 32 digits and the hash 64")
    return key


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of the file; None if it is missing. Takes a microsecond."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


if __name__ == "__main__":
    main()
