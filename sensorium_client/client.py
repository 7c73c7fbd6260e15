"""The client, for async programs and, by way of a thread, for all others."""

import asyncio
import threading
import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

import httpx

from sensorium_client.answers import (
    Classification,
    Embedding,
    read_classification,
    read_embedding,
)
from sensorium_client.errors import Unreachable
from sensorium_client.exchange import exchange
from sensorium_client.items import Item, Source, as_item, find_items
from sensorium_client.many import ItemError, answer_all

URL = "http://localhost:3000"
SECONDS = 60.0
CONCURRENCY = 8

Task = Literal["classify", "embed"]
Result = TypeVar("Result")


class EmbedOptions(TypedDict, total=False):
    """Which model; without one, the only one that can do it, in its highest version."""

    model: str
    version: str | int


class ClassifyOptions(EmbedOptions, total=False):
    """How many labels; or, for a text, which: by likeness to these words."""

    top_k: int
    labels: Sequence[str]


class AsyncClient:
    """Asks a Sensorium service.

    A call is answered within `timeout` seconds or fails. Meanwhile it tries again, whatever passes:
    a service that is busy, restarts, or cannot be reached. `api_key` goes as a bearer token.
    """

    def __init__(
        self, url: str = URL, *, timeout: float = SECONDS, api_key: str | None = None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise Unreachable(f"{url} does not begin with http:// or https://")
        self._seconds = timeout
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=None,  # exchange has one for the whole attempt
            limits=httpx.Limits(max_connections=None),  # `concurrency` is the limit
        )

    async def classify(self, source: Source, **options: Unpack[ClassifyOptions]) -> Classification:
        """The labels of an image, text or audio file.

        Raises:
            SensoriumError: there are none; its class says who can act on it.
        """
        return read_classification(await self._ask("classify", source, dict(options)))

    async def embed(self, source: Source, **options: Unpack[EmbedOptions]) -> Embedding:
        """The vector of an image, text or audio file.

        Raises:
            SensoriumError: there is none; its class says who can act on it.
        """
        return read_embedding(await self._ask("embed", source, dict(options)))

    def classify_all(
        self,
        sources: Source | Iterable[Source],
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[tuple[Item, Classification | ItemError], None]:
        """Each file, with its labels or with the error that is its own, in the order given.

        A folder stands for the files in it. So many are asked at a time, one file a request: the
        service makes the batches. `progress` counts the files first, and shows a bar on a terminal.

        Raises:
            SensoriumError: no file would be answered, or none any more.
        """

        async def ask(item: Item) -> Classification:
            return await self.classify(item, **options)

        return answer_all(ask, find_items(sources), concurrency, progress)

    def embed_all(
        self,
        sources: Source | Iterable[Source],
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> AsyncGenerator[tuple[Item, Embedding | ItemError], None]:
        """Each file with its vector, as `classify_all` with labels."""

        async def ask(item: Item) -> Embedding:
            return await self.embed(item, **options)

        return answer_all(ask, find_items(sources), concurrency, progress)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, task: Task, source: Source, options: dict[str, Any]) -> dict[str, Any]:
        item = as_item(source)
        content = await asyncio.to_thread(item.read)
        request = self._http.build_request(
            "POST",
            f"/v1/{item.modality}/{task}",
            params=options,
            content=content,
            headers={"Content-Type": "application/octet-stream", "X-Request-Id": uuid.uuid4().hex},
        )
        return await exchange(self._http, request, self._seconds)


class Client:
    """The same for programs that are not async, notebooks included; any thread may use it."""

    def __init__(
        self, url: str = URL, *, timeout: float = SECONDS, api_key: str | None = None
    ) -> None:
        self._client = AsyncClient(url, timeout=timeout, api_key=api_key)
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def classify(self, source: Source, **options: Unpack[ClassifyOptions]) -> Classification:
        """See `AsyncClient.classify`."""
        return self._wait(self._client.classify(source, **options))

    def embed(self, source: Source, **options: Unpack[EmbedOptions]) -> Embedding:
        """See `AsyncClient.embed`."""
        return self._wait(self._client.embed(source, **options))

    def classify_all(
        self,
        sources: Source | Iterable[Source],
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[ClassifyOptions],
    ) -> Iterator[tuple[Item, Classification | ItemError]]:
        """See `AsyncClient.classify_all`."""
        return self._iterate(
            self._client.classify_all(
                sources, concurrency=concurrency, progress=progress, **options
            )
        )

    def embed_all(
        self,
        sources: Source | Iterable[Source],
        *,
        concurrency: int = CONCURRENCY,
        progress: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[tuple[Item, Embedding | ItemError]]:
        """See `AsyncClient.embed_all`."""
        return self._iterate(
            self._client.embed_all(sources, concurrency=concurrency, progress=progress, **options)
        )

    def close(self) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._closing.wait())

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C; nothing happens to one that is done

    def _iterate(self, answers: AsyncGenerator[Result, None]) -> Iterator[Result]:
        try:
            while (answer := self._wait(_next(answers))) is not None:
                yield answer
        finally:
            with suppress(RuntimeError):  # a step that was just cancelled closes them by itself
                self._wait(_close(answers))


async def _next(answers: AsyncGenerator[Result, None]) -> Result | None:
    return await anext(answers, None)


async def _close(answers: AsyncGenerator[Result, None]) -> None:
    await answers.aclose()
