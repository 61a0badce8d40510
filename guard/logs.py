"""One JSON line a request and an event, on standard error. No text, no body, no header, no exception message."""

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog


def configure(level: str) -> None:
    """Send structlog, the libraries' loggers and what ends a thread to standard error, as JSON lines."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_values,
            structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # libraries may put a statement's values or a request's body into their messages: only their warnings' names pass
    root = logging.getLogger()
    root.handlers = [_NameOnly()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    threading.excepthook = _thread_ended


def frames(error: BaseException) -> list[str]:
    """Return where an exception came from, `file:line function`, innermost last: its type and place say enough."""
    return [
        f"{f.filename.rsplit('/', 2)[-1]}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-8:]
    ]


def _json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event).decode()


def _without_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = frames(error)
    return event


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    name = ended.thread.name if ended.thread else None
    structlog.get_logger().error("thread_ended", thread=name, exc_info=ended.exc_value)


class _NameOnly(logging.Handler):
    """Passes on that a library warned, and which, but not what it said."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library_warned", library=record.name, place=f"{record.filename}:{record.lineno}")
