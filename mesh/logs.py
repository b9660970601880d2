"""Logs: one JSON object per line on stderr; an event with fields, and the trace it belongs to.

Log on a transition, not on a poll. This is a thin layer over the standard `logging`, so that
libraries come out in the same shape; structlog would do it too, but loads a terminal's whole
formatting into every process (0.3 s and 15 MB each).
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace

LEVELS = ("debug", "info", "warning", "error")

_FIELDS = "fields"


class Logger:
    """Logs events with fields: `log.info("snapshot published", version="1f")`."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __repr__(self) -> str:
        return f"<Logger {self._logger.name}>"

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks for a fault."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Something changed, as it should."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something changed for the worse, and the process copes."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something could not be done."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """As `error`, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(
        self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields}, exc_info=exc_info)


def get_logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(logging.getLogger(name))


def configure_logs(level: str, **fields: str) -> None:
    """Sets up this process's logs; `fields` stand on every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(fields))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    set_log_level(level)
    # A stream whose caller left while a response went out is closed from another context, which
    # OpenTelemetry calls an error.
    logging.getLogger("opentelemetry.context").setLevel(logging.CRITICAL)


def set_log_level(level: str) -> None:
    """Has this process log from a level on: one of `LEVELS`."""
    for package in ("mesh", "services"):  # libraries stay at warnings
        logging.getLogger(package).setLevel(level.upper())


class _JsonFormatter(logging.Formatter):
    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._fields,
            "component": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = trace.format_trace_id(context.trace_id)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
