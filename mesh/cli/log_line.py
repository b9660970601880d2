"""A line of a log as a person reads it: time, event, fields; what is no JSON stays as it is."""

from __future__ import annotations

import json
from typing import Any

from rich.text import Text

TRACES = ("exception", "traceback")
"""What has lines of its own, and is shown below the rest."""
HIDDEN = {"timestamp", "time", "level", "event", "service", "component", *TRACES}
REQUEST = {"method", "path", "status"}
LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}


def render_line(line: str) -> Text:
    """The line, with whatever structure it has made visible."""
    try:
        fields: Any = json.loads(line)
    except ValueError:
        return Text(line)
    if not isinstance(fields, dict):
        return Text(line)
    level = str(fields.get("level", "info"))
    text = Text(_clock(fields), "dim")
    text.append(f"{_headline(fields)} ", LEVEL_STYLES.get(level, ""))
    hidden = HIDDEN if "event" in fields else HIDDEN | REQUEST
    shown = {k: v for k, v in fields.items() if k not in hidden and v not in (None, "", "-")}
    text.append("  ".join(f"{key}={_plain(value)}" for key, value in shown.items()), "dim")
    for trace in (fields[key] for key in TRACES if key in fields):
        text.append(f"\n{trace}", "red")
    return text


def _clock(fields: dict[str, Any]) -> str:
    """`05:20:17.157 ` of an ISO time."""
    moment = str(fields.get("timestamp") or fields.get("time") or "")
    return f"{moment[11:23]} " if "T" in moment else ""


def _headline(fields: dict[str, Any]) -> str:
    """The event; for a line of Envoy's access log the request and its status."""
    if "event" in fields:
        return str(fields["event"])
    return " ".join(str(fields[key]) for key in ("method", "path", "status") if key in fields)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
