"""Examples: the good requests, each with the answer that the model's folder says it has."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.wire import Answer, post

MEDIA_TYPE = "application/octet-stream"
FIELDS = {"classify": "labels", "embed": "vector"}
TOLERANCE = 0.01  # of a score, or of a vector's largest number


@dataclass(frozen=True, slots=True)
class Example:
    """A file that travels with a model, asked for one task."""

    path: str
    file: bytes
    expected: tuple[float, ...]  # a score for each label, or the vector
    labels: tuple[str, ...]  # of the scores; none for a vector

    def message(self) -> bytes:
        return post(self.path, MEDIA_TYPE, self.file)

    def is_right(self, answer: Answer) -> bool:
        return answer.status == 200 and self.is_answered_by(json.loads(answer.body)["results"][0])

    def is_answered_by(self, result: dict[str, Any]) -> bool:
        """Whether one item's result is what it must be."""
        if result["status"] != "ok":
            return False
        if not self.labels:
            return len(result["vector"]) == len(self.expected) and _are_near(
                result["vector"], self.expected
            )
        known = dict(zip(self.labels, self.expected, strict=True))
        given = {label["label"]: label["score"] for label in result["labels"]}
        return _are_near(list(given.values()), [known.get(label, -1.0) for label in given])


def read_examples(models: Path) -> list[Example]:
    """Of every task of every model of that folder that reads one file."""
    manifests = sorted(models.glob("*/*/manifest.yaml"))
    return [example for path in manifests for example in _read(path)]


def _read(path: Path) -> Iterator[Example]:
    manifest = yaml.safe_load(path.read_text())
    folder, spec = path.parent, manifest["preprocessing"]
    [modality, *others] = {reader["modality"] for reader in spec.get("encoders") or [spec]}
    if others:
        return
    file = folder / manifest["example"]["file"]
    expected = json.loads((folder / "example.json").read_bytes())
    for task, values in expected.items():
        labels = (folder / "labels.txt").read_text().splitlines() if task == "classify" else []
        query = f"model={manifest['name']}"
        yield Example(
            f"/v1/{modality}/{task}?{query}",
            file.read_bytes(),
            tuple(values),
            tuple(labels),
        )


def _are_near(found: list[float], expected: list[float] | tuple[float, ...]) -> bool:
    allowed = TOLERANCE * max(map(abs, expected))
    return all(abs(a - b) <= allowed for a, b in zip(found, expected, strict=True))
