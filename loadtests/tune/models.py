"""Models: what a running service says of one; its folder alone, with another `max_batch`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtests.payloads import Modality

MANIFEST = "manifest.yaml"


class TakesSeveral(Exception):
    """A model that cannot be asked with one file."""


@dataclass(frozen=True, slots=True)
class Description:
    """What has to be known of a model in order to ask it, and to change its settings."""

    name: str
    version: str
    modality: Modality
    task: str
    encoders: Sequence[str]  # that a head needs beside it
    max_batch: int
    other_precisions: Sequence[str]  # that could run here instead of the one that does

    @property
    def path(self) -> str:
        return f"/v1/{self.modality}/{self.task}?model={self.name}"


def describe(card: Mapping[str, Any]) -> Description:
    """What `/v1/models/<name>` says, as far as it matters here.

    Raises:
        TakesSeveral: its requests do not hold one file each.
    """
    name, manifest = card["id"], card["manifest"]
    reading = manifest["preprocessing"]
    encoders = reading.get("encoders", [])
    modalities = list(dict.fromkeys(reader["modality"] for reader in encoders or [reading]))
    if len(modalities) > 1:
        raise TakesSeveral(f"{name} takes several files at once: tune each of its encoders")
    devices = ["cpu"] if card["provider"] == "cpu" else ["cuda", "cpu"]
    graphs = [graph for graph in manifest["graphs"] if graph["device"] in devices]
    precisions = dict.fromkeys(graph["precision"] for graph in graphs)
    return Description(
        name=name,
        version=card["version"],
        modality=modalities[0],
        task=next(iter(manifest["tasks"])),
        encoders=[encoder["name"] for encoder in encoders],
        max_batch=manifest["batching"]["max_batch"],
        other_precisions=[name for name in precisions if name != card["precision"]],
    )


def link_model(models: Path, model: Description, max_batch: int, into: Path) -> None:
    """Fill an empty folder with links to that model, so limited, and to the encoders it needs."""
    for encoder in model.encoders:
        (into / encoder).symlink_to(models / encoder)
    folder = into / model.name / model.version
    folder.mkdir(parents=True)
    for path in (models / model.name / model.version).iterdir():
        if path.name != MANIFEST:
            (folder / path.name).symlink_to(path)
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            content["batching"] = {**content.get("batching", {}), "max_batch": max_batch}
            (folder / MANIFEST).write_text(yaml.safe_dump(content), encoding="utf-8")
