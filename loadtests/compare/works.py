"""Works: what is asked of every server, and of which model."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["photo", "text", "digit"]
MODELS: dict[Kind, str] = {
    "photo": "efficientnet-lite0",
    "text": "all-minilm-l6-v2",
    "digit": "spoken-digits",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of load: a name, what is sent, and how hard it may be measured."""

    name: str
    kind: Kind
    about: str
    most_concurrency: int = 1000

    @property
    def batches(self) -> tuple[int, ...]:
        """What the ceiling is tried with: a batch gains something for short texts only."""
        return (1, 8) if self.kind == "text" else (1,)

    @property
    def model(self) -> str:
        return MODELS[self.kind]


WORKS = {
    work.name: work
    for work in (
        Work("photos", "photo", "ordinary photographs, about 110 KB"),
        # One costs those that decode all of it a quarter of a second: with 32 at once the first
        # answers would come after four.
        Work("photos12", "photo", "12 megapixels with grain, about 3 MB", 8),
        Work("short", "text", "texts of 6 to 16 tokens"),
        Work("mixed", "text", "texts of 4 to 256 tokens, as many from 4 to 8 as from 128 to 256"),
        Work("digits", "digit", "spoken digits, WAV", 8),
    )
}
