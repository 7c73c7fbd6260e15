"""Workers: each applies what is wanted of the models; a change is made when all of them have.

In one folder lie `models.json`, which says what is wanted, and a socket for each worker that lives.
Whoever changes the file knocks at every socket, and each worker answers when it has applied it.
"""

import asyncio
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from service.control.folders import Fingerprint, Key
from service.control.repository import Repository
from service.control.routing import (
    Defaults,
    Policy,
    open_state,
    read_defaults,
    read_policies,
    short_path,
    write_defaults,
    write_policies,
)
from service.errors import DeadlineExceeded, NotReady, StateUnusable
from service.settings import Use
from service.supervision import STARTER, end_worker

logger = logging.getLogger(__name__)

ATTEND_SECONDS = (
    1.0  # between two looks at this worker's socket, and at the process that started it
)
KEEP_SECONDS = 5.0  # in which the defaults must be written
KNOCK_SECONDS = 0.05  # between two looks for workers that start

Reasons = dict[str, dict[str, str]]  # model -> version -> why it was refused
Edit = Callable[[Policy], Policy]


class Answer(TypedDict):
    """Of a worker that was told of a change."""

    reasons: Reasons
    error: str | None  # why it could not apply it


class ControlChannel:
    """All processes of one server, seen from one of them."""

    def __init__(self, folder: Path, repository: Repository, count: int) -> None:
        """Args:
            count: how many workers the server has.

        Raises:
            OperatorError: the folder cannot be used, or what it keeps cannot be read.
        """
        self._folder = folder
        self._repository = repository
        self._count = count
        self._starter = int(os.environ.get(STARTER, os.getppid()))
        open_state(folder)
        self._socket = folder / f"{os.getpid()}.socket"
        self._server: asyncio.Server | None = None
        self._deaf: str | None = None  # why it has no socket
        self._kept: dict[str, str] = {}  # of the defaults, what the folder has

    async def open(self) -> None:
        """Take part, and load what is wanted."""
        await self._listen()
        policies, defaults = await asyncio.to_thread(self._read)
        await self._repository.open(policies, defaults)

    async def follow(self, seconds: float) -> None:
        """Look so often for folders that were changed, and load those that have come to rest."""
        before: dict[Key, Fingerprint] = {}
        while True:
            await asyncio.sleep(seconds)
            before = await self._repository.poll(before)

    async def attend(self) -> None:
        """Make this worker's socket again where it was deleted; end when its server has ended."""
        while True:
            await asyncio.sleep(ATTEND_SECONDS)
            if os.getppid() != self._starter:
                end_worker("the process that started it has ended")
                return
            if not await asyncio.to_thread(self._socket.exists):
                await self._listen()
            if self._repository.defaults.first != self._kept:
                await self._keep_defaults()

    async def _keep_defaults(self) -> None:
        """Let the next start know which models were the only ones that could do a task."""
        self._kept = first = dict(self._repository.defaults.first)

        def write() -> None:
            _, defaults = self._read()
            write_defaults(self._folder, defaults.model_copy(update={"first": first}))

        try:
            await self._write(write, asyncio.get_running_loop().time() + KEEP_SECONDS)
        except (StateUnusable, DeadlineExceeded) as error:
            logger.warning("the next start may ask for model= again: %s", error)

    def close(self) -> None:
        """Take part no more."""
        if self._server:
            self._server.close()
        self._socket.unlink(missing_ok=True)

    async def change(self, edits: Mapping[str, Edit], deadline: float) -> Reasons:
        """Change the policies of these models; what workers refuse, once all have applied it.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            StateUnusable: the file cannot be read or written; nothing is changed.
            NotReady: a worker failed.
            DeadlineExceeded: a worker has not applied it in time.
        """

        def write() -> None:
            policies, _ = self._read()
            changed = {name: edit(policies.get(name, Policy())) for name, edit in edits.items()}
            write_policies(self._folder, {**policies, **changed})

        return await self._change(write, list(edits), deadline)

    async def set_defaults(self, chosen: Mapping[Use, str], deadline: float) -> None:
        """Let these models answer requests that name none, in the place of all set before.

        Raises:
            StateUnusable, NotReady, DeadlineExceeded: as `change`.
        """

        def write() -> None:
            _, defaults = self._read()
            write_defaults(self._folder, defaults.model_copy(update={"chosen": dict(chosen)}))

        await self._change(write, (), deadline)

    async def _change(
        self, write: Callable[[], None], names: Collection[str], deadline: float
    ) -> Reasons:
        await self._write(write, deadline)
        reasons: Reasons = {}
        for worker, answer in (await self._tell(names, deadline)).items():
            if answer["error"]:
                raise NotReady(f"worker {worker} could not apply this: {answer['error']}")
            for name, refused in answer["reasons"].items():
                reasons.setdefault(name, {}).update(refused)
        return reasons

    async def _write(self, write: Callable[[], None], deadline: float) -> None:
        """Change what the folder keeps, alone."""

        def work() -> None:
            with self._exclusive(deadline):
                write()

        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.to_thread(work)
        except TimeoutError:
            raise DeadlineExceeded("the state folder did not answer in time") from None

    def _read(self) -> tuple[dict[str, Policy], Defaults]:
        """What the folder keeps; where it was emptied, what this worker goes by."""
        repository = self._repository
        return (
            read_policies(self._folder, missing=repository.policies),
            read_defaults(self._folder, missing=repository.defaults),
        )

    @contextmanager
    def _exclusive(self, deadline: float) -> Iterator[None]:
        """No other call, and no other worker, changes the file meanwhile."""
        try:
            lock = (self._folder / "lock").open("w")
        except FileNotFoundError:  # making it anew might hide that a volume is not mounted
            raise StateUnusable("the state folder is gone; make it again") from None
        except OSError as error:
            raise StateUnusable(f"the state folder cannot be used: {error.strerror}") from error
        with lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded("another worker keeps the state locked") from None
                    time.sleep(0.01)
            yield

    async def _tell(self, names: Collection[str], deadline: float) -> dict[int, Answer]:
        """Each worker's answer, when all have applied what is wanted of these models.

        One that has just ended is replaced: its successor is told as well.
        """
        told: dict[int, asyncio.Task[Answer | None]] = {}
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    for worker in await asyncio.to_thread(self._find):
                        if worker not in told:
                            told[worker] = asyncio.create_task(self._knock(worker, names))
                    if told:
                        await asyncio.wait(told.values(), timeout=KNOCK_SECONDS)
                    late = [task for task in told.values() if not task.done()]
                    found = {worker: task.result() for worker, task in told.items() if task.done()}
                    answers = {worker: answer for worker, answer in found.items() if answer}
                    if not late and len(answers) >= self._count:
                        return answers
                    for worker in set(found) - set(answers):
                        del told[worker]
                    if not late:
                        await asyncio.sleep(KNOCK_SECONDS)
        except TimeoutError:
            raise DeadlineExceeded(self._name_late(told)) from None
        finally:
            for task in told.values():
                task.cancel()

    def _name_late(self, told: Mapping[int, "asyncio.Task[Answer | None]"]) -> str:
        late = [str(worker) for worker, task in told.items() if not task.done()]
        if late:
            return (
                f"worker {' and '.join(late)} has not followed in time; the change is kept, and it"
                " makes it when it can (its log may say more)"
            )
        return (
            f"{len(told)} of {self._count} workers have followed in time; the change is kept, and"
            " the others make it when they start"
        )

    def _find(self) -> list[int]:
        """The numbers of the workers that have a socket; those of dead ones are removed."""
        found = []
        for socket in self._folder.glob("*.socket"):
            try:
                worker = int(socket.stem)
                os.kill(worker, 0)
                found.append(worker)
            except ProcessLookupError:
                socket.unlink(missing_ok=True)
            except (ValueError, OSError):  # another user's process has that number now
                continue
        return found

    async def _knock(self, worker: int, names: Collection[str]) -> Answer | None:
        """What a worker says when it has applied what is wanted; None of one that has ended."""
        writer = None
        try:
            with short_path(self._folder) as folder:
                socket = folder / f"{worker}.socket"
                reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(json.dumps(list(names)).encode())
            writer.write_eof()
            answer: Answer | None = json.loads(await reader.read() or b"null")
            return answer
        except OSError:  # it was killed, or is starting
            return None
        finally:
            if writer:
                writer.close()

    async def _listen(self) -> None:
        """Be told of changes. Without a socket the worker serves, and `attend` tries again."""
        if self._server:
            self._server.close()
        try:
            self._socket.unlink(missing_ok=True)  # of a dead one that had this number
            with short_path(self._folder) as folder:
                socket = folder / self._socket.name
                self._server = await asyncio.start_unix_server(self._answer, socket)
            self._deaf = None
        except OSError as error:
            if self._deaf != (reason := str(error)):
                logger.error("this worker cannot be told of changes: %s", reason)
            self._deaf = reason

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = Answer(reasons={}, error=None)
        try:
            names = json.loads(await reader.read())
            policies, defaults = await asyncio.to_thread(self._read)
            await self._repository.apply(policies, defaults, names)
            answer["reasons"] = self._repository.reasons()
        except Exception as error:  # whoever knocked must be told
            logger.exception("what is wanted of the models cannot be applied")
            answer["error"] = str(error)
        with suppress(OSError):
            writer.write(json.dumps(answer).encode())
            await writer.drain()
        writer.close()
