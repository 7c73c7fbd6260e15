"""Errors: each message is a sentence for the person who can fix the cause.

    SensoriumError
    ├── CallerError          the client corrects the request
    │   ├── BadRequest         the form or a parameter is wrong
    │   ├── Unreadable         a file cannot be decoded
    │   ├── Unsupported        the model does not support this modality or task
    │   ├── TooLarge           the input exceeds a limit, which the message names
    │   ├── UnknownEncoding    the body's compression is not supported
    │   ├── UnknownMediaType   the media type of the body, or of a part, is not supported
    │   ├── BodyTimeout        the body did not arrive in time
    │   ├── Unauthenticated    the key is missing or unknown
    │   ├── Forbidden          the key lacks the required scope
    │   ├── NotFound           no such model or route
    │   └── CallerGone         the client disconnected
    ├── LoadError            the client tries again later
    │   ├── TooManyRequests    the client exceeds its rate limit
    │   ├── QueueFull          too much work is waiting
    │   ├── DeadlineExceeded   the answer is not possible before the deadline
    │   └── NotReady           the model or the service is loading, draining or refused
    └── OperatorError        the operator corrects the installation
        ├── BadModel           the model folder failed its checks
        │   └── EncoderMissing   the encoder of a head is not loaded
        ├── BatchFailed        the model failed on this input
        ├── ProviderMissing    the requested hardware is missing
        └── StateUnusable      the state folder cannot be read or written

These errors know nothing of HTTP; `api.problems` maps each to its status and code.
"""


class SensoriumError(Exception):
    """The base of all errors that Sensorium raises on purpose."""


class CallerError(SensoriumError):
    """The client must change the request; the message says how."""


class BadRequest(CallerError):
    """The request has a form or a parameter that this route does not accept."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unreadable(CallerError):
    """The bytes cannot be decoded as the expected kind of file."""


class Unsupported(CallerError):
    """The model does not support this modality or task."""


class TooLarge(CallerError):
    """The input exceeds a limit."""


class UnknownEncoding(CallerError):
    """The compression of the body is not supported."""


class UnknownMediaType(CallerError):
    """The media type of the body, or of a part, is not supported."""


class BodyTimeout(CallerError):
    """The body did not arrive in time."""


class Unauthenticated(CallerError):
    """The key is missing or unknown."""


class Forbidden(CallerError):
    """The key lacks the required scope."""


class NotFound(CallerError):
    """No such model, version or route."""


class CallerGone(CallerError):
    """The client disconnected before the answer was ready."""


class LoadError(SensoriumError):
    """The same request can succeed later: after `retry_after` seconds, if that is known."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyRequests(LoadError):
    """The client exceeds its limit of concurrent requests, or of requests per second."""


class QueueFull(LoadError):
    """Too much work is waiting."""


class DeadlineExceeded(LoadError):
    """The deadline passed, or passes before the answer is ready."""


class NotReady(LoadError):
    """The model is loading, draining or refused."""


class OperatorError(SensoriumError):
    """The installation is wrong, not the request."""


class BadModel(OperatorError):
    """The model folder failed a check; the message names the file and the field."""


class EncoderMissing(BadModel):
    """The encoder that a head names is not loaded, or has other weights."""


class BatchFailed(OperatorError):
    """The model failed on this sample, even in a batch of one."""


class ProviderMissing(OperatorError):
    """This machine lacks the requested execution provider."""


class StateUnusable(OperatorError):
    """The state folder cannot be read or written."""
