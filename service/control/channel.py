"""The control channel: every worker applies every change of the models.

The state folder holds `models.json` with the wanted policies, and a socket for each live worker. A
worker that changes the file notifies every socket, and waits until each worker has applied it.
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

ATTEND_SECONDS = 1.0  # between two checks of this worker's socket and its parent process
KEEP_SECONDS = 5.0  # for writing the defaults
NOTIFY_SECONDS = 0.05  # between two searches for workers that are starting

Reasons = dict[str, dict[str, str]]  # model -> version -> why it was refused
Edit = Callable[[Policy], Policy]


class Answer(TypedDict):
    """A worker's answer to a notification."""

    reasons: Reasons
    error: str | None  # why it could not apply the change


class ControlChannel:
    """One worker's connection to all workers of the server, through the state folder."""

    def __init__(self, folder: Path, repository: Repository, count: int) -> None:
        """Args:
            count: the number of workers.

        Raises:
            OperatorError: the folder cannot be used, or its files cannot be read.
        """
        self._folder = folder
        self._repository = repository
        self._count = count
        self._starter = int(os.environ.get(STARTER, os.getppid()))
        open_state(folder)
        self._socket = folder / f"{os.getpid()}.socket"
        self._server: asyncio.Server | None = None
        self._socket_error: str | None = None  # why this worker has no socket
        self._kept: dict[str, str] = {}  # the defaults in the folder

    async def open(self) -> None:
        """Listen for changes, and load the wanted models."""
        await self._listen()
        policies, defaults = await asyncio.to_thread(self._read)
        await self._repository.open(policies, defaults)

    async def follow(self, seconds: float) -> None:
        """Poll for changed model folders. A folder is loaded once it stays unchanged."""
        before: dict[Key, Fingerprint] = {}
        while True:
            await asyncio.sleep(seconds)
            before = await self._repository.poll(before)

    async def attend(self) -> None:
        """Restore a deleted socket. End this worker if its parent process has ended."""
        while True:
            await asyncio.sleep(ATTEND_SECONDS)
            if os.getppid() != self._starter:
                end_worker("its parent process has ended")
                return
            if not await asyncio.to_thread(self._socket.exists):
                await self._listen()
            if self._repository.defaults.first != self._kept:
                await self._save_defaults()

    async def _save_defaults(self) -> None:
        self._kept = first = dict(self._repository.defaults.first)

        def write() -> None:
            _, defaults = self._read()
            write_defaults(self._folder, defaults.model_copy(update={"first": first}))

        try:
            await self._write_locked(write, asyncio.get_running_loop().time() + KEEP_SECONDS)
        except (StateUnusable, DeadlineExceeded) as error:
            logger.warning(
                "default models were not saved; requests may need model= after the next start: %s",
                error,
            )

    def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()
        self._socket.unlink(missing_ok=True)

    async def change(self, edits: Mapping[str, Edit], deadline: float) -> Reasons:
        """Change the policies of these models, and wait until all workers have applied them.

        Args:
            deadline: on the event loop's clock, in seconds.

        Returns:
            The reasons why workers refused models.

        Raises:
            StateUnusable: the file cannot be read or written; nothing is changed.
            NotReady: a worker failed.
            DeadlineExceeded: a worker has not applied the change in time.
        """

        def write() -> None:
            policies, _ = self._read()
            changed = {name: edit(policies.get(name, Policy())) for name, edit in edits.items()}
            write_policies(self._folder, {**policies, **changed})

        return await self._change(write, list(edits), deadline)

    async def set_defaults(self, chosen: Mapping[Use, str], deadline: float) -> None:
        """Replace the default models.

        Raises:
            StateUnusable, NotReady, DeadlineExceeded: see `change`.
        """

        def write() -> None:
            _, defaults = self._read()
            write_defaults(self._folder, defaults.model_copy(update={"chosen": dict(chosen)}))

        await self._change(write, (), deadline)

    async def _change(
        self, write: Callable[[], None], names: Collection[str], deadline: float
    ) -> Reasons:
        await self._write_locked(write, deadline)
        reasons: Reasons = {}
        for worker, answer in (await self._notify_all(names, deadline)).items():
            if answer["error"]:
                raise NotReady(f"worker {worker} could not apply the change: {answer['error']}")
            for name, refused in answer["reasons"].items():
                reasons.setdefault(name, {}).update(refused)
        return reasons

    async def _write_locked(self, write: Callable[[], None], deadline: float) -> None:

        def work() -> None:
            with self._locked(deadline):
                write()

        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.to_thread(work)
        except TimeoutError:
            raise DeadlineExceeded("the state folder did not answer in time") from None

    def _read(self) -> tuple[dict[str, Policy], Defaults]:
        """The policies and defaults in the folder; this worker's own if the files are missing."""
        repository = self._repository
        return (
            read_policies(self._folder, missing=repository.policies),
            read_defaults(self._folder, missing=repository.defaults),
        )

    @contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        try:
            lock = (self._folder / "lock").open("w")
        except FileNotFoundError:  # not created here: a volume may be unmounted
            raise StateUnusable("the state folder is gone; create it again") from None
        except OSError as error:
            raise StateUnusable(f"the state folder cannot be used: {error.strerror}") from error
        with lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise DeadlineExceeded("another worker holds the state's lock") from None
                    time.sleep(0.01)
            yield

    async def _notify_all(self, names: Collection[str], deadline: float) -> dict[int, Answer]:
        """The answers of all workers, once each has applied the policies of these models.

        A worker that ends meanwhile is replaced, and its replacement is notified.
        """
        notified: dict[int, asyncio.Task[Answer | None]] = {}
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    for worker in await asyncio.to_thread(self._find_workers):
                        if worker not in notified:
                            notified[worker] = asyncio.create_task(self._notify(worker, names))
                    if notified:
                        await asyncio.wait(notified.values(), timeout=NOTIFY_SECONDS)
                    late = [task for task in notified.values() if not task.done()]
                    found = {
                        worker: task.result() for worker, task in notified.items() if task.done()
                    }
                    answers = {worker: answer for worker, answer in found.items() if answer}
                    if not late and len(answers) >= self._count:
                        return answers
                    for worker in set(found) - set(answers):
                        del notified[worker]
                    if not late:
                        await asyncio.sleep(NOTIFY_SECONDS)
        except TimeoutError:
            raise DeadlineExceeded(self._describe_late(notified)) from None
        finally:
            for task in notified.values():
                task.cancel()

    def _describe_late(self, notified: Mapping[int, "asyncio.Task[Answer | None]"]) -> str:
        late = [str(worker) for worker, task in notified.items() if not task.done()]
        if late:
            return (
                f"worker {' and '.join(late)} did not apply the change in time; it is saved, and"
                " the worker applies it later (see its log)"
            )
        return (
            f"{len(notified)} of {self._count} workers applied the change in time; it is saved, and"
            " the others apply it when they start"
        )

    def _find_workers(self) -> list[int]:
        found = []
        for socket in self._folder.glob("*.socket"):
            try:
                worker = int(socket.stem)
                os.kill(worker, 0)
                found.append(worker)
            except ProcessLookupError:
                socket.unlink(missing_ok=True)
            except (ValueError, OSError):  # the id now belongs to another user's process
                continue
        return found

    async def _notify(self, worker: int, names: Collection[str]) -> Answer | None:
        """A worker's answer after it has applied the change; None if the worker has ended."""
        writer = None
        try:
            with short_path(self._folder) as folder:
                socket = folder / f"{worker}.socket"
                reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(json.dumps(list(names)).encode())
            writer.write_eof()
            answer: Answer | None = json.loads(await reader.read() or b"null")
            return answer
        except OSError:  # the worker was killed, or is starting
            return None
        finally:
            if writer:
                writer.close()

    async def _listen(self) -> None:
        """Listen for changes. Without a socket the worker still serves, and `attend` retries."""
        if self._server:
            self._server.close()
        try:
            self._socket.unlink(missing_ok=True)  # of a dead worker with the same process id
            with short_path(self._folder) as folder:
                socket = folder / self._socket.name
                self._server = await asyncio.start_unix_server(self._answer, socket)
            self._socket_error = None
        except OSError as error:
            if self._socket_error != (reason := str(error)):
                logger.error("this worker cannot listen for changes of the models: %s", reason)
            self._socket_error = reason

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = Answer(reasons={}, error=None)
        try:
            names = json.loads(await reader.read())
            policies, defaults = await asyncio.to_thread(self._read)
            await self._repository.apply(policies, defaults, names)
            answer["reasons"] = self._repository.reasons()
        except Exception as error:  # the notifying worker waits for an answer
            logger.exception("a change of the models cannot be applied")
            answer["error"] = str(error)
        with suppress(OSError):
            writer.write(json.dumps(answer).encode())
            await writer.drain()
        writer.close()
