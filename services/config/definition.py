"""What can be set, as callers meet it: check, JSON Schema, and the words of a refusal. Pure.

All three come from the setting's type, which is the one truth.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mesh.errors import InvalidArgument, NotFound
from mesh.live_setting import LIVE_SETTINGS, LiveSetting

LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class Definition:
    """One setting that exists, whether or not anybody ever changed it."""

    setting: LiveSetting
    kind: TypeAdapter[Any]

    @property
    def key(self) -> str:
        """Its name."""
        return self.setting.key

    @property
    def default(self) -> Any:
        """Its value until somebody changes it."""
        return self.setting.default

    @property
    def description(self) -> str:
        """What it does, in a sentence."""
        return self.setting.description

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON Schema that every value satisfies."""
        return self.kind.json_schema()

    def read(self, value_json: str | bytes) -> Any:
        """The value; raises `InvalidArgument` in the constraint's own words."""
        try:
            return self.kind.validate_json(value_json)
        except ValidationError as error:
            raise self._refusal(error) from error

    def accepts(self, value: Any) -> bool:
        """Whether a value that was stored earlier, or by hand, satisfies today's constraint."""
        try:
            self.kind.validate_python(value)
        except ValidationError:
            return False
        return True

    def _refusal(self, error: ValidationError) -> InvalidArgument:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            return InvalidArgument(f"{self.key}: the value is not JSON", field="value_json")
        given = _shown(first["input"])
        words = constraint_words(self.schema)
        return InvalidArgument(f"{self.key} must be {words}, not {given}", field="value_json")


Definitions = Mapping[str, Definition]


def make_definitions() -> Definitions:
    """Everything that can be set, by key."""
    return {each.key: Definition(each, TypeAdapter(each.kind)) for each in LIVE_SETTINGS}


def find_definition(definitions: Definitions, key: str) -> Definition:
    """The setting of this key; raises `NotFound` with the keys that were perhaps meant."""
    found = definitions.get(key)
    if found is not None:
        return found
    near = difflib.get_close_matches(key, definitions, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(definitions)}"
    raise NotFound(f"there is no setting {_shown(key)}; {hint}")


def constraint_words(schema: Mapping[str, Any]) -> str:
    """A JSON Schema of one choice or one range, as a sentence says it."""
    if "enum" in schema:
        return f"one of {', '.join(json.dumps(each) for each in schema['enum'])}"
    noun = {"integer": "an integer", "number": "a number"}[schema["type"]]
    return f"{noun} from {schema['minimum']} to {schema['maximum']}"


def _shown(value: Any) -> str:
    """What was given, cut so that an absurd value does not become an absurd message."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."
