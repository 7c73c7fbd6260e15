"""Hostile input: what a client may send by mistake or on purpose, made anew from each seed.

    corpus(seed)                    broken files in every form of body, broken forms, broken heads
    photographs(seed, originals)    the same damage, done to real files

Nothing here knows the service, so that a load test may send the same to any URL.
"""

from collections.abc import Iterable, Iterator
from random import Random

from tests.hostile import forms, pictures, requests, sounds, texts
from tests.hostile.case import Case, File
from tests.hostile.damage import damaged

FILES = {"image": pictures.files, "audio": sounds.files, "text": texts.files}
NEIGHBOURS = {"image": pictures.good, "audio": sounds.good, "text": texts.good}


def corpus(seed: int) -> Iterator[Case]:
    """All cases; what chance decides in them (bits, cuts, noise) is the seed's."""
    for modality, make in FILES.items():
        neighbour = NEIGHBOURS[modality]()
        for number, file in enumerate(make(Random(f"{seed} {modality}"))):
            yield from _in_every_form(modality, file, neighbour, number)
    yield from forms.json_cases()
    yield from forms.multipart_cases()
    yield from requests.cases()


def _in_every_form(modality: str, file: File, neighbour: bytes, number: int) -> Iterator[Case]:
    """The file alone as raw body, part and base64, and behind a good one that must not suffer."""
    path = forms.path(modality, number)
    yield forms.raw(path, file)
    yield forms.part(path, file)
    yield forms.base64_item(path, file)
    if not path.endswith("/preview"):
        yield forms.behind(neighbour, path, file)


def photographs(seed: int, originals: Iterable[bytes]) -> Iterator[Case]:
    """Real ones, damaged: what a camera writes has more in it than what is made here."""
    rng = Random(f"{seed} photographs")
    for number, original in enumerate(originals):
        for file in damaged(f"photograph {number}", original, rng):
            yield forms.raw(forms.path("image", number), file)
