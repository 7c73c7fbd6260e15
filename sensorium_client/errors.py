"""Every failure is a sentence, and its class says who can act on it.

    SensoriumError
    ├── NotSendable         you: what was given cannot be read here, or is of no kind that is taken
    ├── Unreachable         the network: no answer came; `__cause__` is the last reason
    └── Problem             the service's own answer: `code`, `status`, `request_id`
        ├── FileRefused       this file: unreadable, too large, or the model failed on it
        ├── RequestRefused    the way of asking: every other file would get the same answer
        └── Unavailable       later: too busy, loading, a limit on callers; `retry_after`

The last two of what may pass, `Unreachable` and `Unavailable`, are raised when the time for trying
again is up.
"""


class SensoriumError(Exception):
    """The root of all that the client raises on purpose."""


class NotSendable(SensoriumError):
    """The file cannot be read, or the array is neither an image nor audio."""


class Unreachable(SensoriumError):
    """No answer came in time."""


class Problem(SensoriumError):
    """The service's problem document; its `detail` is the sentence."""

    def __init__(
        self, detail: str, code: str, status: int, request_id: str, retry_after: float | None
    ) -> None:
        super().__init__(detail)
        self.code = code  # as in docs/reference.md; "http_<status>" when a proxy answered
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after  # seconds


class FileRefused(Problem):
    """This file has no answer; others may."""


class RequestRefused(Problem):
    """No such model or parameter, or no permission: no file is answered when asked like this."""


class Unavailable(Problem):
    """The same request may succeed later."""
