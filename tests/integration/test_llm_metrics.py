"""A real language model's metrics, as a scraper of vLLM reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.inference.llm.request import GenerationRequest, SamplingRequest
from tests.integration.llm_support import open_model

pytestmark = pytest.mark.model

LABELS = {"model_name": "smollm2", "engine": "1"}


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Samples of the model by name, as they travel."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if {key: sample.labels.get(key) for key in LABELS} == LABELS
    }


async def test_requests_are_counted_and_the_warm_up_is_not(
    demo_models: Any, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    prompt = "The lighthouse keeper climbed the stairs every evening before the ships came in."
    greedy = SamplingRequest(temperature=0)
    request = GenerationRequest(prompt, greedy, max_tokens=60, ignore_eos=True)
    async with open_model(demo_models.smollm2_gguf, tmp_path, registry, slots=2) as model:
        await model.warm_up()
        idle = scrape(registry)
        assert (idle["vllm:num_requests_running"], idle["vllm:kv_cache_usage_perc"]) == (0, 0)
        assert idle["vllm:prompt_tokens_total"] == idle["vllm:generation_tokens_total"] == 0
        usage = [
            scrape(registry)["vllm:kv_cache_usage_perc"] async for _ in model.generate(request)
        ]
        assert usage[0] == 0.5
        again = await model.generate_text(request)
        seen = scrape(registry)
    assert seen["vllm:prompt_tokens_total"] == 2 * again.started.prompt_tokens
    assert seen["vllm:prefix_cache_queries_total"] == 2 * again.started.prompt_tokens
    assert seen["vllm:prefix_cache_hits_total"] == again.started.cached_tokens > 0
    assert seen["vllm:generation_tokens_total"] == 120
    assert seen["vllm:request_success_total"] == 2
    assert seen["vllm:time_to_first_token_seconds_count"] == 2
    # Tokens that a slow reader finds ready together count as one beginning.
    assert 0 < seen["vllm:time_per_output_token_seconds_count"] <= 118
