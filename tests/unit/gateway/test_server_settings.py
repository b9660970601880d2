"""Triton's trace and log settings in terms of the mesh's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, Unimplemented
from mesh.logs import LEVELS
from services.gateway.oip.log_setting import change_log, show_log
from services.gateway.oip.trace_setting import change_trace, show_trace

ratios = st.one_of(st.just(0.0), st.integers(1, 10_000).map(lambda n: 1 / n))


@given(ratios)
def test_what_is_shown_changes_nothing_when_it_is_set(ratio: float) -> None:
    assert change_trace(show_trace(ratio), ratio, 1.0) == ratio


@pytest.mark.parametrize(
    ("settings", "now", "after"),
    [
        ({"trace_rate": ["4"]}, 1.0, 0.25),
        ({"trace_rate": ["0"]}, 1.0, 0.0),
        ({"trace_rate": []}, 0.25, 0.5),
        ({"trace_level": ["OFF"]}, 0.25, 0.0),
        ({"trace_level": ["TIMESTAMPS"]}, 0.25, 0.25),
        ({"trace_level": ["TIMESTAMPS"]}, 0.0, 0.5),
        ({"trace_level": ["TIMESTAMPS"], "trace_rate": ["10"]}, 0.0, 0.1),
        ({"trace_level": ["OFF"], "trace_rate": ["10"]}, 1.0, 0.0),
        ({"trace_mode": ["opentelemetry"]}, 0.25, 0.25),
        ({}, 0.25, 0.25),
    ],
)
def test_a_rate_is_one_in_so_many(settings, now: float, after: float) -> None:
    assert change_trace(settings, now, 0.5) == after


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"trace_rate": ["-1"]}, InvalidArgument),
        ({"trace_rate": ["1", "2"]}, InvalidArgument),
        ({"trace_rate": ["99999999999"]}, InvalidArgument),
        ({"trace_level": ["TENSORS"]}, InvalidArgument),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, InvalidArgument),
        ({"rate": ["1"]}, InvalidArgument),
        ({"trace_file": ["/tmp/x"]}, Unimplemented),
        ({"trace_count": ["5"]}, Unimplemented),
    ],
)
def test_a_wrong_trace_setting_is_named(settings, error) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        change_trace(settings, 1.0, 1.0)


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_a_level_goes_to_triton_and_back(level: str, before: str) -> None:
    assert change_log(show_log(level), before) == level


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [
        ({"log_verbose_level": 1}, "info", "debug"),
        ({"log_verbose_level": 0}, "debug", "info"),
        ({"log_info": False}, "info", "warning"),
        ({"log_info": False, "log_warning": False}, "info", "error"),
        ({"log_info": True, "log_warning": True}, "error", "info"),
        ({}, "warning", "warning"),
    ],
)
def test_switches_become_a_level(settings, before: str, after: str) -> None:
    assert change_log(settings, before) == after


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"log_error": False}, InvalidArgument, "errors are always logged"),
        ({"log_warning": False}, InvalidArgument, "more severe"),
        ({"log_info": 1}, InvalidArgument, "log_info"),
        ({"log_verbose_level": True}, InvalidArgument, "log_verbose_level"),
        ({"log_verbose_level": -1}, InvalidArgument, "log_verbose_level"),
        ({"log_format": "ISO8601"}, Unimplemented, "log_format"),
        ({"nonsense": 1}, InvalidArgument, "nonsense"),
    ],
)
def test_a_wrong_log_setting_is_named(settings, error, named: str) -> None:
    with pytest.raises(error, match=named):
        change_log(settings, "info")
