"""The live settings that the control plane obeys, read from what the config service keeps.

The config service refuses bad values; one that is bad all the same is reported and its default
kept, because routing goes on whatever stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from mesh.live_setting import (
    HASH_BALANCE_FACTOR,
    HASH_POLICY,
    PLACEMENT_GRACE_S,
    SAMPLE_RATIO,
    HashPolicy,
    LiveSetting,
)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What operators may turn at run time."""

    policy: HashPolicy = HASH_POLICY.default
    hash_balance_factor: int = HASH_BALANCE_FACTOR.default
    """How much load one node may have before its keys overflow, in per cent of the mean."""
    sample_ratio: float = SAMPLE_RATIO.default
    """Share of the traces begun here that are recorded."""
    placement_grace_s: float = PLACEMENT_GRACE_S.default
    """How long a vanished node keeps its replicas before others load them."""


_SETTINGS: Final[Mapping[str, LiveSetting]] = MappingProxyType(
    {
        "policy": HASH_POLICY,
        "hash_balance_factor": HASH_BALANCE_FACTOR,
        "sample_ratio": SAMPLE_RATIO,
        "placement_grace_s": PLACEMENT_GRACE_S,
    }
)
"""Where each field comes from."""


class _Stored(BaseModel):
    value: Any


def read_tuning(values: Mapping[str, bytes], on_problem: Callable[[str, str], None]) -> Tuning:
    """The tuning that stored values (by key, without the prefix) amount to."""
    tuning = Tuning()
    for field, setting in _SETTINGS.items():
        if setting.key not in values:
            continue
        try:
            stored = _Stored.model_validate_json(values[setting.key])
            chosen = TypeAdapter(setting.kind).validate_python(stored.value)
        except ValidationError as error:
            on_problem(setting.key, error.errors()[0]["msg"])
        else:
            tuning = replace(tuning, **{field: chosen})
    return tuning
