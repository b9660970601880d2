"""Logs: one JSON object per line on stderr; an event with fields, and the trace it belongs to.

Log on a transition, not on a poll. Libraries that use the standard `logging` come out in the same
shape.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(component=name))


def configure_logs(level: str, **fields: str) -> None:
    """Sets up this process's logs; `fields` stand on every line."""
    shared: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.add_log_level,
        _add_trace,
        _FieldAdder(fields),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    logging.basicConfig(level=max(logging.WARNING, _number(level)), handlers=[handler], force=True)


class _FieldAdder:
    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**self._fields, **event}


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


def _number(level: str) -> int:
    value: Any = logging.getLevelName(level.upper())
    return value if isinstance(value, int) else logging.INFO
