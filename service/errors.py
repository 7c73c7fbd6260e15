"""Every failure is a sentence for the one person who can act on it.

    SensoriumError
    ├── CallerError          the caller mends the request
    │   ├── BadRequest         its form or its parameters
    │   ├── Unreadable         a file that is not what it is meant to be
    │   ├── Unsupported        a kind of file or answer that there is none of here
    │   ├── TooLarge           beyond a limit, which the sentence names
    │   ├── UnknownEncoding    a body that is compressed in a way that is not taken here
    │   ├── UnknownMediaType   a body, or a part of one, of a media type that is not taken here
    │   ├── BodyTimeout        a body that did not arrive in time
    │   ├── Unauthenticated    no key, or none that is known here
    │   ├── Forbidden          a key that is not good for this
    │   ├── NotFound           no model, or no route, of that name
    │   └── CallerGone         nobody waits for the answer
    ├── LoadError            the caller tries again later
    │   ├── TooManyRequests    more than one caller may ask at once, or a second
    │   ├── QueueFull          more work waits than may wait
    │   ├── DeadlineExceeded   the answer would have come too late
    │   └── NotReady           the model or the service is loading, draining or refused
    └── OperatorError        whoever runs the service mends it
        ├── BadModel           a model folder that cannot be served as it is
        │   └── EncoderMissing   a head whose encoder is not loaded
        ├── BatchFailed        the model failed on this very input
        ├── ProviderMissing    hardware that was asked for is not there
        └── StateUnusable      what is wanted of the models cannot be read or written

They are raised deep and plain, without HTTP; `api.problems` gives each its status and code.
"""


class SensoriumError(Exception):
    """The root of all failures that Sensorium raises on purpose."""


class CallerError(SensoriumError):
    """The request cannot be answered; the sentence says what to change in it."""


class BadRequest(CallerError):
    """The request is not of a form that this route takes."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unreadable(CallerError):
    """The bytes cannot be decoded as what they are meant to be."""


class Unsupported(CallerError):
    """The media type, or what is asked of the model, is not offered."""


class TooLarge(CallerError):
    """The input is beyond one of the limits."""


class UnknownEncoding(CallerError):
    """The body is compressed in a way that is not taken here."""


class UnknownMediaType(CallerError):
    """The body, or a part of it, is of a media type that is not taken here."""


class BodyTimeout(CallerError):
    """The body did not arrive in time."""


class Unauthenticated(CallerError):
    """The request brings no key that is known here."""


class Forbidden(CallerError):
    """The key is known, and not good for this."""


class NotFound(CallerError):
    """Nothing here has that name."""


class CallerGone(CallerError):
    """The caller closed its connection before the answer was there."""


class LoadError(SensoriumError):
    """The same request may succeed later: after so many seconds, where that is known."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyRequests(LoadError):
    """One caller asks more at once, or more a second, than one caller may."""


class QueueFull(LoadError):
    """The model's queue holds as much work as it may."""


class DeadlineExceeded(LoadError):
    """The deadline passed before the model could take the work."""


class NotReady(LoadError):
    """The model does not serve now."""


class OperatorError(SensoriumError):
    """The installation, not the request, is wrong."""


class BadModel(OperatorError):
    """The model folder cannot be served as it is; the sentence names file and field."""


class EncoderMissing(BadModel):
    """The head names an encoder that is not loaded, or that has other weights."""


class BatchFailed(OperatorError):
    """The model could not compute this one sample, though it was alone in its batch."""


class ProviderMissing(OperatorError):
    """The execution provider that was asked for is not to be had on this machine."""


class StateUnusable(OperatorError):
    """What is wanted of the models cannot be read from the state folder, or written there."""
