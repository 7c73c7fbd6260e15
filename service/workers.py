"""Workers: each applies what is wanted of the models; a change is made when all of them have.

In one folder lie `models.json`, which says what is wanted, and a socket for each worker that lives.
Whoever changes the file knocks at every socket, and each worker answers when it has applied it.
"""

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service.errors import NotReady
from service.policy import Policy, open_state, read_policies, write_policies
from service.repository import Fingerprint, Key, Repository

logger = logging.getLogger(__name__)

Reasons = dict[str, dict[str, str]]  # model -> version -> why it was refused
Edit = Callable[[Policy], Policy]


class Workers:
    """All processes of one server, seen from one of them."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        """Raises:
        OperatorError: the folder cannot be used, or what it keeps cannot be read.
        """
        self._folder = folder
        self._repository = repository
        self._applying = asyncio.Lock()
        self._file = open_state(folder)

    @property
    def _socket(self) -> Path:
        return self._folder / f"{os.getpid()}.socket"

    async def open(self) -> None:
        """Take part, and load what is wanted."""
        async with self._applying:
            self._socket.unlink(missing_ok=True)  # of a dead one that had this number
            self._server = await asyncio.start_unix_server(self._answer, self._socket)
            await self._repository.open(read_policies(self._file))

    async def follow(self, seconds: float) -> None:
        """Look so often for folders that were changed, and load those that have come to rest."""
        before: dict[Key, Fingerprint] = {}
        while True:
            await asyncio.sleep(seconds)
            found = await asyncio.to_thread(self._repository.changes)
            settled = {key for key, seen in found.items() if before.get(key) == seen}
            async with self._applying:
                for name in {name for name, _ in settled}:
                    await self._repository.look(name, settled)
            before = found

    def close(self) -> None:
        """Take part no more."""
        self._socket.unlink(missing_ok=True)

    async def change(self, edits: Mapping[str, Edit]) -> Reasons:
        """Change the policies of these models; what all workers refuse, once all have applied it.

        Raises:
            NotReady: a worker has ended on the way.
        """
        with self._alone():
            policies = read_policies(self._file)
            changed = {name: edit(policies.get(name, Policy())) for name, edit in edits.items()}
            write_policies(self._file, {**policies, **changed})
        answers = await asyncio.gather(*map(_knock, self._folder.glob("*.socket")))
        reasons: Reasons = {}
        for answer in answers:
            for name, refused in answer.items():
                reasons.setdefault(name, {}).update(refused)
        return reasons

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other worker changes the file meanwhile."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._applying:
                await self._repository.apply(read_policies(self._file))
            writer.write(json.dumps(self._repository.reasons()).encode())
            await writer.drain()
        except Exception:  # whoever knocked must not wait for ever
            logger.exception("what is wanted of the models cannot be applied")
        finally:
            writer.close()


async def _knock(socket: Path) -> Reasons:
    """What one worker refuses, now that it has applied what is wanted; nothing of a dead one."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except (ConnectionRefusedError, FileNotFoundError):  # killed, or gone just now
        return {}
    try:
        answer = await reader.read()
    finally:
        writer.close()
    if not answer:
        raise NotReady("a worker failed while it applied this; its log has more")
    reasons: Reasons = json.loads(answer)
    return reasons
