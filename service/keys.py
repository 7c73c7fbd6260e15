"""Keys: who may use the service, and for what.

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

# infer: ask the models; admin: change which there are; metrics: read the figures
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


# Whom an unknown name is compared with, so that it takes as long to refuse as a known one.
NOBODY = Key("", frozenset(), secrets.token_bytes(16), secrets.token_bytes(32))


class Keys:
    """The keys of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Raises:
        OperatorError: the file is not there, or is not of that form.
        """
        self._path = path
        self._seen = _look(path)
        self._keys = read_keys(path)

    def find(self, given: str) -> Key | None:
        """The key that a caller has shown, `NAME.SECRET`; None where it is none of these."""
        self._refresh()
        name, _, secret = given.partition(".")
        key = self._keys.get(name, NOBODY)
        return key if hmac.compare_digest(hash_secret(secret, key.salt), key.hash) else None

    def _refresh(self) -> None:
        seen = _look(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(self._path)
        except OperatorError as error:  # it may be half written
            logger.error("%s; the keys from before stay valid", error)
        else:
            logger.info("%s: %d keys", self._path, len(self._keys))


def hash_secret(secret: str, salt: bytes) -> bytes:
    """What stands in the file in place of the secret.

    Passwords need a slow hash because they can be guessed. These are 256 random bits, which no
    number of guesses finds, and a slow hash would let anybody keep the service busy.
    """
    return hashlib.blake2b(secret.encode(), digest_size=32, salt=salt).digest()


def read_keys(path: Path) -> dict[str, Key]:
    """The keys of a file by their names; empty lines and `# ...` are passed over.

    Raises:
        OperatorError: the file is not there, or a line is not of that form.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise OperatorError(f"SENSORIUM_KEYS: the file of keys cannot be read: {error}") from error
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = _parse(line)
        except ValueError as error:
            raise OperatorError(f"{path}, line {number}: {error}") from error
        if key.name in keys:
            raise OperatorError(f"{path}, line {number}: there is a key {key.name} already")
        keys[key.name] = key
    return keys


def add_key(path: Path, name: str, scopes: Sequence[str]) -> str:
    """Append a new key to the file, which is made where there is none; the key itself.

    Raises:
        OperatorError: the name cannot be used, or is there already; the file is not of its form.
        OSError: the file cannot be written.
    """
    if not NAME.fullmatch(name):
        raise OperatorError(f"{name!r}: a name is 1 to 64 of A-Z, a-z, 0-9, _ and -")
    path.touch(0o600)
    if name in read_keys(path):
        raise OperatorError(f"{path} has a key {name} already; take its line out, or another name")
    secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
    line = f"{name} {','.join(scopes)} {salt.hex()} {hash_secret(secret, salt).hex()}\n"
    text = path.read_text()
    with path.open("a") as file:
        file.write(f"\n{line}" if text and not text.endswith("\n") else line)
    return f"{name}.{secret}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m service.keys", description="The service's keys.")
    add = parser.add_subparsers(required=True).add_parser("add", help="make a key and print it")
    add.add_argument("name", help="whose it is; the log tells it")
    add.add_argument(
        "--scope",
        action="append",
        choices=PERMISSIONS,
        help="what it is good for; may be repeated (default: infer)",
    )
    add.add_argument(
        "--file",
        type=Path,
        default=os.environ.get("SENSORIUM_KEYS"),
        help="the file of keys (default: SENSORIUM_KEYS)",
    )
    asked = parser.parse_args(arguments)
    if asked.file is None:
        parser.error("say --file, or set SENSORIUM_KEYS")
    try:
        print(add_key(asked.file, asked.name, asked.scope or ["infer"]))
    except (OperatorError, OSError) as error:
        sys.exit(str(error))


def _parse(line: str) -> Key:
    """Raises:
    ValueError: the line is not of the form; the sentence does not repeat it.
    """
    parts = line.split()
    if len(parts) != 4 or not NAME.fullmatch(parts[0]):
        raise ValueError("it must be NAME SCOPE,SCOPE SALT HASH")
    name, scopes, salt, digest = parts
    if unknown := set(scopes.split(",")) - set(PERMISSIONS):
        raise ValueError(f"there is no scope {min(unknown)}; there are: {', '.join(PERMISSIONS)}")
    key = Key(name, frozenset(scopes.split(",")), bytes.fromhex(salt), bytes.fromhex(digest))
    if (len(key.salt), len(key.hash)) != (16, 32):
        raise ValueError("the salt has 32 digits and the hash 64")
    return key


def _look(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; None where there is none. Takes a microsecond."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


if __name__ == "__main__":
    main()
