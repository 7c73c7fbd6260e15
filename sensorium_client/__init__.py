"""A client of Sensorium: images, texts and audio in, labels or vectors out.

    from sensorium_client import Client, text

    with Client("http://localhost:3000") as client:
        print(client.classify("cat.jpg").labels[0])
        vector = client.embed(text("Where is my card?")).vector

It needs httpx and nothing of the service; docs/client.md has more.
"""

from sensorium_client.answers import Classification, Embedding, Label
from sensorium_client.client import AsyncClient, Client
from sensorium_client.errors import (
    FileRefused,
    NotSendable,
    Problem,
    RequestRefused,
    SensoriumError,
    Unavailable,
    Unreachable,
)
from sensorium_client.items import Item, audio, image, text

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "Embedding",
    "FileRefused",
    "Item",
    "Label",
    "NotSendable",
    "Problem",
    "RequestRefused",
    "SensoriumError",
    "Unavailable",
    "Unreachable",
    "audio",
    "image",
    "text",
]
