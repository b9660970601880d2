"""What can be set: each setting's key, type, default and meaning, as data. Pure.

The type is the one truth: the check, the JSON Schema that callers are shown and the words of a
refusal all come from it. What a setting does is the business of whoever reads it; the control
plane's own reading (its defaults, and which values it takes) must agree with this list.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mesh.errors import InvalidArgument, NotFound

LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class Definition:
    """One setting that exists, whether or not anybody ever changed it."""

    key: str
    kind: TypeAdapter[Any]
    default: Any
    description: str

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
    known = [
        Definition(
            "routing.policy",
            TypeAdapter(Literal["maglev", "ring_hash"]),
            "maglev",
            "How Envoy chooses a node by affinity key: maglev spreads keys more evenly, "
            "ring_hash moves fewer of them when nodes come and go.",
        ),
        Definition(
            "routing.hash_balance_factor",
            TypeAdapter(Annotated[int, Field(strict=True, ge=100, le=1000)]),
            200,
            "How much load one node may have, in per cent of the mean, before its keys overflow to "
            "other nodes; with two nodes, 200 and more let one have it all.",
        ),
        Definition(
            "tracing.sample_ratio",
            TypeAdapter(Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]),
            1.0,
            "Share of the traces begun at the edge that are recorded.",
        ),
        Definition(
            "logging.level",
            TypeAdapter(Literal["debug", "info", "warning", "error"]),
            "info",
            "The least severe events that every process of the mesh logs; until it is set, each "
            "process logs at the level that it was started with.",
        ),
        Definition(
            "placement.grace_s",
            TypeAdapter(Annotated[float, Field(strict=True, ge=0, le=3600, allow_inf_nan=False)]),
            30.0,
            "How long a vanished node keeps its models before other nodes load them, in seconds.",
        ),
    ]
    return {each.key: each for each in known}


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
