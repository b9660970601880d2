"""The Envoys that are connected, and what each has confirmed.

A rollout waits here: routes have moved when every Envoy has confirmed the snapshot that moves them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.subscription import Rejection
from mesh.logs import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EnvoyStatus:
    """What is known of one connected Envoy."""

    node: str
    applied_version: str = ""
    """The last snapshot that it confirmed as a whole."""
    refusals: tuple[str, ...] = ()
    """What it refused of the snapshot that is served now."""


class Member:
    """One stream's place in the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.status = EnvoyStatus(node="")

    def __repr__(self) -> str:
        return f"<Member {self.status}>"

    def update(self, status: EnvoyStatus) -> None:
        """Takes over what the stream now knows."""
        if status != self.status:
            self.status = status
            self._fleet.notify()

    def report(self, rejection: Rejection) -> None:
        """Makes a refusal visible."""
        self._fleet.report(self.status.node, rejection)


class Fleet:
    """All connected Envoys."""

    def __init__(self, metrics: ControlplaneMetrics) -> None:
        self._members: set[Member] = set()
        self._changed = asyncio.Event()
        self._metrics = metrics

    def __repr__(self) -> str:
        return f"<Fleet {', '.join(map(str, self.envoys)) or 'empty'}>"

    @property
    def envoys(self) -> tuple[EnvoyStatus, ...]:
        """The Envoys connected now."""
        return tuple(member.status for member in self._members)

    def has_applied(self, version: str) -> bool:
        """Whether every connected Envoy has confirmed this snapshot."""
        return all(each.applied_version == version for each in self.envoys)

    async def wait_applied(self, version: str) -> None:
        """Returns when every connected Envoy has confirmed this snapshot; give it a timeout.

        With no Envoy connected it returns at once: one that comes begins with what is served.
        """
        while not self.has_applied(version):
            await self._changed.wait()

    @contextmanager
    def joined(self) -> Iterator[Member]:
        """Counts a stream as a connected Envoy until the block is left."""
        member = Member(self)
        self._members.add(member)
        try:
            yield member
        finally:
            self._members.discard(member)
            self.notify()
            _log.info("envoy left", envoy=member.status.node)

    def notify(self) -> None:
        """Tells those who wait, and the metrics, that something changed."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._metrics.show_envoys((each.node, each.applied_version) for each in self.envoys)

    def report(self, node: str, rejection: Rejection) -> None:
        """Counts and logs a refusal."""
        kind = rejection.kind.name.lower()
        self._metrics.rejections.labels(node, kind).inc()
        _log.error(
            "envoy refused resources",
            envoy=node,
            kind=kind,
            names=rejection.names,
            reason=rejection.message,
        )
