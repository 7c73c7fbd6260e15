"""Many items: some in flight at a time, answered in the order in which they were given."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from itertools import islice
from typing import TypeVar

from sensorium_client.errors import FileRefused, NotSendable
from sensorium_client.items import Item
from sensorium_client.progress import progress_bar

Answer = TypeVar("Answer")
ItemError = FileRefused | NotSendable  # what concerns one item, and not the others

AHEAD = 4  # items begun for each in flight: while a slow one holds the order up, others go on


async def answer_all(
    ask: Callable[[Item], Awaitable[Answer]],
    items: Iterable[Item],
    concurrency: int,
    progress: bool,
) -> AsyncGenerator[tuple[Item, Answer | ItemError], None]:
    """Each item with its answer, or with the error that is its own.

    Raises:
        SensoriumError: what would befall the other items as well.
        ValueError: none may be asked at a time.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
    free = asyncio.Semaphore(concurrency)

    async def outcome(item: Item) -> Answer | ItemError:
        async with free:
            try:
                return await ask(item)
            except (FileRefused, NotSendable) as error:
                return error

    total = None
    if progress:
        items = list(items)
        total = len(items)
    coming = iter(items)
    begun: deque[tuple[Item, asyncio.Task[Answer | ItemError]]] = deque()
    with progress_bar(total) as advance:
        try:
            while True:
                for item in islice(coming, AHEAD * concurrency - len(begun)):
                    begun.append((item, asyncio.create_task(outcome(item))))
                if not begun:
                    return
                item, task = begun.popleft()
                yield item, await task
                advance()
        finally:
            for _, task in begun:
                task.cancel()
            await asyncio.gather(*(task for _, task in begun), return_exceptions=True)
