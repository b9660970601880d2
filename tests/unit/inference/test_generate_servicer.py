"""The node's own service on a toy model: its messages, its spans, and what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from mesh.errors import InvalidArgument
from mesh.pb import node_pb2
from services.inference.generate_servicer import NodeServicer
from services.inference.llm.model import LoadedLanguageModel
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_model import OneModel, open_toy


class Context:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.sent += metadata


@pytest.fixture
def backend() -> ToyBackend:
    return ToyBackend()


@pytest.fixture
async def model(backend: ToyBackend) -> AsyncIterator[LoadedLanguageModel]:
    opened = await open_toy("toy", backend)
    yield opened
    backend.go_on()
    await opened.close()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Tracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


def asking(tokens: int = 20, **fields: Any) -> node_pb2.GenerateRequest:
    sampling = node_pb2.Sampling(temperature=0)
    return node_pb2.GenerateRequest(
        **{
            "model_name": "toy",
            "text": "12",
            "sampling": sampling,
            "max_tokens": tokens,
            "ignore_eos": True,
            **fields,
        }
    )


async def test_each_response_is_written_and_counted_once(
    model: LoadedLanguageModel, tracer: Tracer
) -> None:
    models, context = OneModel(model), Context()
    call: Any = NodeServicer("n", models, tracer).Generate(asking(), context)  # type: ignore[arg-type]
    events = [event async for event in call]
    deltas = [event.delta for event in events if event.HasField("delta")]
    assert context.sent == [("x-ringmesh-node", "n"), ("x-ringmesh-version", "1")]
    assert events[0].started.node == "n"
    assert sum(len(delta.token_ids) for delta in deltas) == 20
    assert events[-1].finished.completion_tokens == 20
    counts = models.counts.snapshot()
    assert counts.inference_stats.success.count == 1
    with_text = [delta for delta in deltas if delta.text]
    places = counts.response_stats
    assert len(places) == len(with_text) + 1
    assert [places[str(at)].success.count for at in range(len(with_text))] == [1] * len(with_text)
    assert places[str(len(with_text))].empty_response.count == 1


async def test_log_probabilities_come_where_they_are_asked_for(
    model: LoadedLanguageModel, tracer: Tracer
) -> None:
    servicer: Any = NodeServicer("n", OneModel(model), tracer)
    without = [event async for event in servicer.Generate(asking(), Context())]
    assert not any(event.delta.logprobs for event in without)
    given = [event async for event in servicer.Generate(asking(logprobs=2), Context())]
    tokens = [token for event in given for token in event.delta.token_ids]
    entries = [entry for event in given for entry in event.delta.logprobs]
    assert [entry.token_id for entry in entries] == tokens
    assert all(entry.top[0] == node_pb2.TokenLogprob(**_facts(entry)) for entry in entries)


def _facts(entry: node_pb2.TokenLogprob) -> dict[str, Any]:
    return {"token_id": entry.token_id, "token": entry.token, "logprob": entry.logprob}


async def test_a_reader_that_leaves_is_counted_with_what_it_has_taken(
    model: LoadedLanguageModel, backend: ToyBackend, tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    models = OneModel(model)
    servicer: Any = NodeServicer("n", models, tracer)
    taken = 0
    backend.hold(after=1)
    async with aclosing(servicer.Generate(asking(100), Context())) as call:
        async for event in call:
            taken += bool(event.delta.text)
            if taken == 3:
                break
            if event.HasField("delta"):  # one token at a time: those ready together come as one
                backend.hold(after=1)
    counts = models.counts.snapshot()
    assert counts.inference_stats.fail.count == 1
    places = counts.response_stats
    assert [places[str(at)].success.count for at in range(3)] == [1] * 3
    assert places["3"].cancel.count == 1
    assert [span.name for span in exporter.get_finished_spans()] == ["queue", "prefill", "decode"]


@pytest.mark.parametrize("tokens", [2, 90])
async def test_spans_are_as_few_for_long_answers_as_for_short_ones(
    model: LoadedLanguageModel, tracer: Tracer, exporter: InMemorySpanExporter, tokens: int
) -> None:
    servicer: Any = NodeServicer("n", OneModel(model), tracer)
    async for _ in servicer.Generate(asking(tokens), Context()):
        pass
    spans = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert list(spans) == ["queue", "prefill", "decode"]
    assert spans["prefill"]["ringmesh.prompt_tokens"] == 2
    assert spans["decode"]["ringmesh.completion_tokens"] == tokens


async def test_a_request_without_a_prompt_is_counted_as_failed(
    model: LoadedLanguageModel, tracer: Tracer
) -> None:
    models = OneModel(model)
    servicer: Any = NodeServicer("n", models, tracer)
    asked = asking()
    asked.ClearField("text")
    with pytest.raises(InvalidArgument, match="no prompt"):
        await anext(servicer.Generate(asked, Context()))
    assert models.counts.snapshot().inference_stats.fail.count == 1
