"""From a new world to a served snapshot: build, check, publish.

A snapshot that does not hang together, or that Envoy's API cannot express, is our mistake: it is
reported and the last one goes on being served.
"""

from __future__ import annotations

from mesh.controlplane.build import World, build
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.consistency import find_problems
from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.snapshot import Snapshot
from mesh.controlplane.topology import Topology
from mesh.logs import get_logger

_log = get_logger(__name__)


class Publisher:
    """Turns each world into the cache's snapshot."""

    def __init__(
        self, cache: SnapshotCache, topology: Topology, metrics: ControlplaneMetrics
    ) -> None:
        self._cache = cache
        self._topology = topology
        self._metrics = metrics

    def publish(self, world: World) -> None:
        """Serves what this world amounts to, if it may be served."""
        try:
            snapshot = build(world, self._topology, self._cache.snapshot)
        except ValueError as error:
            self._withhold((str(error),))
            return
        problems = find_problems(snapshot)
        if problems:
            self._withhold(problems)
        elif self._cache.publish(snapshot):
            self._metrics.show_snapshot(snapshot.version)
            _log.info("snapshot published", **_facts(snapshot, world))

    def _withhold(self, problems: tuple[str, ...]) -> None:
        self._metrics.withheld.inc()
        _log.error("snapshot withheld, the last one stays", problems=problems)


def _facts(snapshot: Snapshot, world: World) -> dict[str, object]:
    return {
        "version": snapshot.version,
        "models": sorted(world.deployments),
        "instances": {name: len(found) for name, found in world.instances.items()},
    }
