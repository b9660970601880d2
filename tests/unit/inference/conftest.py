"""The counts of a version, by a clock that the test moves."""

from __future__ import annotations

import pytest

from services.inference.models.statistics import VersionStatistics
from tests.unit.inference.virtual_time import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def statistics(clock: HandClock) -> VersionStatistics:
    return VersionStatistics("m", 3, clock)
