"""What the control plane counts."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ControlplaneMetrics:
    """The control plane's metrics in a registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._snapshot = Gauge(
            "ringmesh_snapshot_info",
            "The snapshot that is served: 1 at its version.",
            ["version"],
            registry=registry,
        )
        self._envoys = Gauge("ringmesh_envoys", "Envoys that are connected.", registry=registry)
        self._applied = Gauge(
            "ringmesh_envoy_applied_info",
            "Per connected Envoy, 1 at the snapshot that it has confirmed.",
            ["envoy", "version"],
            registry=registry,
        )
        self.rejections = Counter(
            "ringmesh_xds_rejections",
            "Responses that an Envoy refused.",
            ["envoy", "kind"],
            registry=registry,
        )
        self.withheld = Counter(
            "ringmesh_snapshots_withheld",
            "Snapshots that were not served because they were not consistent.",
            registry=registry,
        )
        self.leading = Gauge(
            "ringmesh_controlplane_leading",
            "Whether this control plane decides about placements.",
            registry=registry,
        )

    def show_snapshot(self, version: str) -> None:
        """Names the snapshot that is served."""
        self._snapshot.clear()
        self._snapshot.labels(version).set(1)

    def show_envoys(self, applied: Iterable[tuple[str, str]]) -> None:
        """Names the connected Envoys with the snapshot that each has confirmed."""
        pairs = list(applied)
        self._envoys.set(len(pairs))
        self._applied.clear()
        for pair in pairs:
            self._applied.labels(*pair).set(1)
