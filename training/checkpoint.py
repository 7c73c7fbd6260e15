"""Where a training run stands, kept on disk after each epoch, so that nothing is lost."""

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
    """One file, written whole or not at all."""

    path: Path

    def read(self) -> dict[str, Any] | None:
        """The state that was written last; None where there is none, or it is damaged."""
        try:
            state: dict[str, Any] = torch.load(self.path, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None
        return state

    def write(self, state: State) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # a run of the same recipe has ended
        partial = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        torch.save(dict(state), partial)
        partial.replace(self.path)


class Run:
    """The checkpoints of one command on one data set: another's are never taken for them."""

    def __init__(self, cache: Path, identity: str, *, resume: bool) -> None:
        """Args:
        identity: everything that the outcome depends on.
        resume: go on where an interrupted run stopped, else begin anew.
        """
        self._folder = cache / hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
        if not resume:
            self.finish()
        self._folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, stage: str) -> Checkpoint:
        """Of one training within the run."""
        return Checkpoint(self._folder / f"{re.sub(r'[^a-z0-9]+', '-', stage.lower())}.pt")

    def finish(self) -> None:
        """Nothing is left to resume."""
        shutil.rmtree(self._folder, ignore_errors=True)
