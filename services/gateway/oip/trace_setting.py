"""Triton's trace settings in terms of the mesh's own: which share of the traces is recorded. Pure.

A rate of n means one trace in n. Where traces go, and in what form, is decided by the environment
that the mesh is started in, so those settings can be read and not changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mesh.errors import InvalidArgument, Unimplemented

Settings = Mapping[str, Sequence[str]]

_OFF, _ON = "OFF", "TIMESTAMPS"
_FIXED = {
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "opentelemetry",
}


def show_trace(sample_ratio: float) -> Settings:
    """The settings as they are at this share of recorded traces."""
    is_on = sample_ratio > 0
    rate = round(1 / sample_ratio) if is_on else 0
    shown = {"trace_level": _ON if is_on else _OFF, "trace_rate": str(rate), **_FIXED}
    return {name: (value,) for name, value in shown.items()}


def change_trace(settings: Settings, sample_ratio: float, default: float) -> float:
    """The share of recorded traces that the changed settings ask for.

    A setting without a value goes back to its default.

    Raises:
        InvalidArgument: no such setting, or a value that it cannot have.
        Unimplemented: a setting that does not change while the mesh runs.
    """
    for name, values in settings.items():
        if name in ("trace_level", "trace_rate"):
            continue
        if name not in _FIXED:
            known = ", ".join(show_trace(1))
            raise InvalidArgument(f"settings.{name[:80]}: there are only {known}", field=name)
        if tuple(values) not in ((), (_FIXED[name],)):
            raise Unimplemented(f"settings.{name}: is fixed by the environment of the mesh")
    ratio = _ratio(settings.get("trace_rate"), sample_ratio, default)
    if not _is_on(settings.get("trace_level"), ratio):
        return 0.0
    return ratio if "trace_rate" in settings else ratio or default or 1.0


def _ratio(values: Sequence[str] | None, now: float, default: float) -> float:
    if values is None:
        return now
    if not values:
        return default
    if len(values) != 1 or not re.fullmatch(r"[0-9]{1,9}", values[0]):
        raise InvalidArgument(
            "settings.trace_rate: must be one number, 0 or more", field="trace_rate"
        )
    rate = int(values[0])
    return 1 / rate if rate else 0.0


def _is_on(values: Sequence[str] | None, ratio: float) -> bool:
    if values is None or not values:
        return ratio > 0
    if set(values) == {_OFF}:
        return False
    if set(values) != {_ON}:
        raise InvalidArgument(
            f"settings.trace_level: must be {_OFF} or {_ON}, not {', '.join(values)[:80]}",
            field="trace_level",
        )
    return True
