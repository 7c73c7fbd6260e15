"""Candidates: settings that may be better than what the service chooses by itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.tune.defaults import Defaults
from loadtests.tune.models import Description

MAX_BATCH = "max_batch"  # stands in the manifest; all others are environment variables

Change = tuple[str, str]  # setting, value


@dataclass(frozen=True, slots=True)
class Candidate:
    """What differs from the defaults; nothing, for the defaults themselves."""

    changes: tuple[Change, ...] = ()

    @property
    def label(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.changes) or "defaults"

    @property
    def environment(self) -> dict[str, str]:
        return {variable(name): value for name, value in self.changes if name != MAX_BATCH}

    @property
    def max_batch(self) -> int | None:
        """None: what the manifest says."""
        found = dict(self.changes).get(MAX_BATCH)
        return int(found) if found else None


DEFAULTS = Candidate()


def variable(setting: str) -> str:
    return f"SENSORIUM_{setting.upper()}"


def single_changes(
    defaults: Defaults, model: Description, most_callers: int, fixed: Iterable[str]
) -> list[Candidate]:
    """One setting changed, in each way that may help.

    Args:
        defaults: what the service makes of this machine.
        most_callers: at once, and so the most items in a batch.
        fixed: environment variables that the user has set already: they stay.
    """
    numbers = {
        "workers": near(defaults.workers, defaults.cores),
        "lanes": near(defaults.lanes, defaults.cores),
        "threads": near(defaults.threads, defaults.cores),
        "decode_threads": near(defaults.decode_threads, defaults.cores),
        MAX_BATCH: [n for n in near(model.max_batch, most_callers) if n <= most_callers],
    }
    values: Mapping[str, Sequence[object]] = {"precision": model.other_precisions, **numbers}
    return [
        Candidate(((setting, str(value)),))
        for setting, tried in values.items()
        if variable(setting) not in fixed
        for value in tried
    ]


def near(value: int, most: int) -> list[int]:
    """The ends, and half and twice of it: what differs less is within the noise."""
    return sorted({1, value // 2, value * 2, most} - {0, value})


def combine(candidates: Iterable[Candidate]) -> Candidate:
    """All their changes together; of several for one setting, the first."""
    changes: dict[str, str] = {}
    for candidate in candidates:
        changes = {**dict(candidate.changes), **changes}
    return Candidate(tuple(sorted(changes.items())))
