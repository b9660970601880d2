"""The settings of the mesh that change while it runs: key, values, default and meaning, as data.

The config service takes changes and keeps them in Consul, each at `path` as `{"value": ...}`; what
a setting does is the business of whoever reads it there. This is the one list of what exists, so
that nobody refuses what another takes, or assumes another default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

SETTINGS_PREFIX: Final = "ringmesh/config/values/"

HashPolicy = Literal["maglev", "ring_hash"]


@dataclass(frozen=True, slots=True)
class LiveSetting:
    """One setting; `kind` is the type of its values, as pydantic checks it."""

    key: str
    kind: Any
    default: Any
    description: str

    @property
    def path(self) -> str:
        """Where it lies in Consul once somebody has changed it."""
        return SETTINGS_PREFIX + self.key


def _number(at_most: float) -> Any:
    return Annotated[float, Field(strict=True, ge=0, le=at_most, allow_inf_nan=False)]


HASH_POLICY: Final = LiveSetting(
    "routing.policy",
    HashPolicy,
    "maglev",
    "How Envoy chooses a node by affinity key: maglev spreads keys more evenly, "
    "ring_hash moves fewer of them when nodes come and go.",
)
HASH_BALANCE_FACTOR: Final = LiveSetting(
    "routing.hash_balance_factor",
    Annotated[int, Field(strict=True, ge=100, le=1000)],
    200,
    "How much load one node may have, in per cent of the mean, before its keys overflow to "
    "other nodes; with two nodes, 200 and more let one have it all.",
)
SAMPLE_RATIO: Final = LiveSetting(
    "tracing.sample_ratio",
    _number(1),
    1.0,
    "Share of the traces begun at the edge that are recorded.",
)
LOG_LEVEL: Final = LiveSetting(
    "logging.level",
    Literal["debug", "info", "warning", "error"],
    "info",
    "The least severe events that every process of the mesh logs; until it is set, each "
    "process logs at the level that it was started with.",
)
PLACEMENT_GRACE_S: Final = LiveSetting(
    "placement.grace_s",
    _number(3600),
    30.0,
    "How long a vanished node keeps its models before other nodes load them, in seconds.",
)
LIVE_SETTINGS: Final = (
    HASH_POLICY,
    HASH_BALANCE_FACTOR,
    SAMPLE_RATIO,
    LOG_LEVEL,
    PLACEMENT_GRACE_S,
)
