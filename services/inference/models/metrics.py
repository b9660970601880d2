"""What happens to the versions of a node, for whoever watches many nodes: read from the table."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.inference.models.state import Change
from services.inference.models.table import ModelTable

_COUNTED = (Change.LOADED, Change.LOAD_FAILED, Change.BROKE, Change.RECOVERED)


class ModelCollector(Collector):
    """Each version's state, and how often it was loaded, broke and came back."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        states = GaugeMetricFamily(
            "ringmesh_model_state",
            "1 for the state that a model version is in.",
            labels=("model", "version", "state"),
        )
        changes = CounterMetricFamily(
            "ringmesh_model_changes",
            "What happened to a model version: loaded, load_failed, broke, recovered.",
            labels=("model", "version", "change"),
        )
        for status in self._table.statuses():
            labels = (status.model, str(status.version))
            states.add_metric((*labels, status.state.value), 1)
            counts = self._table.changes(status)
            for change in _COUNTED:
                changes.add_metric((*labels, change.name.lower()), counts.get(change, 0))
        yield states
        yield changes
