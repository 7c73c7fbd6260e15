"""Logs: every line of the process as text, or as one JSON object."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from service.settings import LogFormat


def set_up(form: LogFormat) -> None:
    """Let `service` tell what it does, in the form that was asked for.

    BentoML has given the root logger a handler, which it shares with its own loggers.
    """
    logging.getLogger("service").setLevel(logging.INFO)
    if form is LogFormat.JSON:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())


class JsonFormatter(logging.Formatter):
    """A record as a line of JSON; one that has named arguments, as these."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.args, Mapping):
            line |= record.args
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
