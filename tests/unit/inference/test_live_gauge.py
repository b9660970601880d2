from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from services.inference.live_gauge import LiveGauge

LABELS = ("smollm2", "1")


@pytest.mark.parametrize(("combine", "both"), [(sum, 7.0), (max, 4.0)])
def test_two_engines_of_a_version_are_shown_together_until_one_goes(combine, both) -> None:
    registry = CollectorRegistry()
    gauge = LiveGauge(
        Gauge("running", "Running.", ("model", "version"), registry=registry), combine
    )

    def shown() -> float | None:
        return registry.get_sample_value("running", {"model": "smollm2", "version": "1"})

    old, new = ExitStack(), ExitStack()
    assert shown() is None
    old.enter_context(gauge.showing(LABELS, lambda: 3))
    assert shown() == 3
    new.enter_context(gauge.showing(LABELS, lambda: 4))
    assert shown() == both
    old.close()
    assert shown() == 4
    new.close()
    assert shown() is None
