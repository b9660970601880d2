"""What requests and slots add up to, under vLLM's names."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from services.inference.llm.engine import Occupancy
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.request import Delta, Event, Finished, FinishReason, Started

MS = 1_000_000


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    full = {"model_name": "m", "engine": "3", **labels}
    return registry.get_sample_value(f"vllm:{name}", full)


def finished(reason: FinishReason) -> Finished:
    return Finished(0, reason, 10, 4, queue_us=0, prefill_us=0, decode_us=0, largest_batch=1)


def watch(*events: Event, arrived_ns: int = 0) -> CollectorRegistry:
    """The metrics after one request with these events."""
    registry = CollectorRegistry()
    metrics = LanguageModelMetrics(registry)
    with metrics.watching("m", 3, lambda: Occupancy(slots=8, running=0, waiting=0)) as make_meter:
        meter = make_meter(arrived_ns)
        for event in events:
            meter.see(event)
    return registry


def test_occupancy_is_shown_while_the_model_is_loaded() -> None:
    registry = CollectorRegistry()
    seen = [Occupancy(slots=8, running=2, waiting=5)]
    with LanguageModelMetrics(registry).watching("m", 3, lambda: seen[-1]):
        assert value(registry, "num_requests_running") == 2
        assert value(registry, "num_requests_waiting") == 5
        assert value(registry, "kv_cache_usage_perc") == 0.25
        seen.append(Occupancy(slots=8, running=8, waiting=0))
        assert value(registry, "kv_cache_usage_perc") == 1
    assert value(registry, "num_requests_running") is None


def test_tokens_and_prefix_hits_are_counted() -> None:
    registry = watch(
        Started(0, prompt_tokens=10, cached_tokens=6),
        Delta(1, "a", (1,)),
        Delta(2, "bc", (2, 3)),
        Delta(3, "rest", ()),
        finished(FinishReason.LENGTH),
    )
    assert value(registry, "prompt_tokens_total") == 10
    assert value(registry, "prefix_cache_queries_total") == 10
    assert value(registry, "prefix_cache_hits_total") == 6
    assert value(registry, "generation_tokens_total") == 3
    assert value(registry, "request_success_total", finished_reason="length") == 1
    assert value(registry, "request_success_total", finished_reason="stop") is None


def test_times_are_those_of_the_engine() -> None:
    registry = watch(
        Started(20 * MS, prompt_tokens=10, cached_tokens=0),
        Delta(50 * MS, "a", (1,)),
        Delta(58 * MS, "bc", (2, 3)),
        arrived_ns=10 * MS,
    )
    assert value(registry, "time_to_first_token_seconds_sum") == pytest.approx(0.04)
    assert value(registry, "time_to_first_token_seconds_count") == 1
    assert value(registry, "time_per_output_token_seconds_sum") == pytest.approx(0.008)
    assert value(registry, "time_per_output_token_seconds_bucket", le="0.005") == 2


def test_a_request_without_tokens_has_no_times() -> None:
    registry = watch(Started(1, 10, 0), finished(FinishReason.STOP))
    assert value(registry, "time_to_first_token_seconds_count") == 0
    assert value(registry, "request_success_total", finished_reason="stop") == 1


def test_versions_of_a_model_are_told_apart() -> None:
    metrics = LanguageModelMetrics(registry := CollectorRegistry())
    with (
        metrics.watching("m", 3, lambda: Occupancy(8, 1, 0)),
        metrics.watching("m", 4, lambda: Occupancy(8, 2, 0)),
    ):
        assert value(registry, "num_requests_running") == 1
        assert value(registry, "num_requests_running", engine="4") == 2
