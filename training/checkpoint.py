"""Checkpoints: the state of a training run on disk, written after each epoch."""

import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

State = Mapping[str, Any]  # of tensors, numbers and lists


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file, written atomically."""

    path: Path

    def read(self) -> dict[str, Any] | None:
        """The last state; None if there is none or it is damaged."""
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return state

    def write(self, state: State) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # a concurrent run removes it
        partial = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        torch.save(dict(state), partial)
        partial.replace(self.path)


class Run:
    """The checkpoints of one command on one data set."""

    def __init__(self, cache: Path, identity: str, *, resume: bool) -> None:
        """Args:
        identity: everything that the outcome depends on.
        resume: keep the checkpoints of an interrupted run.
        """
        self._folder = cache / hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
        if not resume:
            self.finish()
        self._folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, stage: str) -> Checkpoint:
        """The checkpoint of one training within the run."""
        return Checkpoint(self._folder / f"{re.sub(r'[^a-z0-9]+', '-', stage.lower())}.pt")

    def finish(self) -> None:
        """Delete the checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)
