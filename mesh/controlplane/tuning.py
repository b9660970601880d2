"""The settings of the mesh that change while it runs, as the config service keeps them in Consul.

Each lives under `ringmesh/config/values/<key>` as `{"value": ..., "revision": n}`. The config
service refuses bad values; one that is bad all the same is reported and its default kept, because
routing goes on whatever stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

SETTINGS_PREFIX = "ringmesh/config/values/"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What operators may turn at run time."""

    policy: Literal["maglev", "ring_hash"] = "maglev"
    hash_balance_factor: int = 200
    """How much load one node may have before its keys overflow, in per cent of the mean."""
    sample_ratio: float = 1.0
    """Share of the traces begun here that are recorded."""
    placement_grace_s: float = 30.0
    """How long a vanished node keeps its replicas before others load them."""


class _Stored(BaseModel):
    value: Any


@dataclass(frozen=True, slots=True)
class _Setting:
    check: TypeAdapter[Any]
    field: str


def _number(at_most: float) -> Any:
    return Annotated[float, Field(strict=True, ge=0, le=at_most, allow_inf_nan=False)]


def _known() -> Mapping[str, _Setting]:
    def setting(field: str, kind: Any) -> _Setting:
        return _Setting(TypeAdapter(kind), field)

    return {
        "routing.policy": setting("policy", Literal["maglev", "ring_hash"]),
        "routing.hash_balance_factor": setting(
            "hash_balance_factor", Annotated[int, Field(strict=True, ge=100, le=1000)]
        ),
        "tracing.sample_ratio": setting("sample_ratio", _number(1)),
        "placement.grace_s": setting("placement_grace_s", _number(3600)),
    }


def read_tuning(values: Mapping[str, bytes], on_problem: Callable[[str, str], None]) -> Tuning:
    """The tuning that stored values (by key, without the prefix) amount to."""
    tuning = Tuning()
    for key, setting in _known().items():
        if key not in values:
            continue
        try:
            stored = _Stored.model_validate_json(values[key])
            chosen = setting.check.validate_python(stored.value)
        except ValidationError as error:
            on_problem(key, error.errors()[0]["msg"])
        else:
            tuning = replace(tuning, **{setting.field: chosen})
    return tuning
