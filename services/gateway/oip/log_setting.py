"""Triton's log settings in terms of the mesh's own: the level from which on it logs. Pure.

Triton switches each severity by itself; here a level includes all that is more severe. A choice
that no level expresses is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.errors import InvalidArgument, Unimplemented
from mesh.logs import LEVELS

Value = bool | int | str

_SWITCHES = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_VERBOSE = "log_verbose_level"
_FIXED: Mapping[str, Value] = {"log_file": "", "log_format": "default"}


def show_log(level: str) -> Mapping[str, Value]:
    """The settings as they are at this level."""
    switches = {name: _includes(level, severity) for name, severity in _SWITCHES.items()}
    return {**switches, _VERBOSE: int(level == "debug"), **_FIXED}


def change_log(settings: Mapping[str, Value], level: str) -> str:
    """The level that the changed settings ask for.

    Raises:
        InvalidArgument: no such setting, a value that it cannot have, or severities that no level
            expresses.
        Unimplemented: a setting that does not change while the mesh runs.
    """
    for name, value in settings.items():
        _check(name, value)
    asked = {**show_log(level), **settings}
    found = next((each for each in LEVELS if _matches(each, asked)), None)
    if found is None:
        raise InvalidArgument(
            "settings: a level includes all that is more severe, so log_info needs log_warning "
            "too, and log_verbose_level both; errors are always logged",
            field="settings",
        )
    return found


def _matches(level: str, asked: Mapping[str, Value]) -> bool:
    shown = show_log(level)
    return all(asked[name] == shown[name] for name in _SWITCHES) and (
        (asked[_VERBOSE] != 0) == (level == "debug")
    )


def _check(name: str, value: Value) -> None:
    if name in _FIXED:
        if value != _FIXED[name]:
            raise Unimplemented(f"settings.{name}: is fixed by the environment of the mesh")
    elif name in _SWITCHES:
        if not isinstance(value, bool):
            raise InvalidArgument(f"settings.{name}: must be true or false", field=name)
    elif name == _VERBOSE:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidArgument(f"settings.{name}: must be a number, 0 or more", field=name)
    else:
        known = ", ".join(show_log("info"))
        raise InvalidArgument(f"settings.{name[:80]}: there are only {known}", field=name)


def _includes(level: str, severity: str) -> bool:
    return LEVELS.index(severity) >= LEVELS.index(level)
