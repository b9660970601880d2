"""`ringmesh.node.v1.Node` over the wire, with the real model, on both server implementations."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.channel import open_channel
from mesh.errors import ModelNotFound, RingmeshError, error_from_rpc
from mesh.pb import node_pb2, node_pb2_grpc
from mesh.server import ServiceBinding, serve
from mesh.telemetry import open_telemetry
from services.inference.generate_servicer import NodeServicer
from services.inference.models.statistics import VersionStatistics
from tests.integration.llm_support import open_model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from services.inference.llm.model import LoadedLanguageModel

pytestmark = pytest.mark.model

NAME = "ringmesh.node.v1.Node"


class State(Enum):
    READY = 3
    LOADING = 2


@dataclass
class Status:
    model: str
    version: int
    state: State
    reason: str = ""
    backend: str = "onnxruntime"
    memory_bytes: int = 0


class Models:
    """A table of one language model and something that is none."""

    def __init__(self, model: LoadedLanguageModel) -> None:
        self._model = model
        self.asked: list[tuple[str, str, str | None]] = []
        self.counts = VersionStatistics(model.name, model.version)

    async def resolve(
        self, name: str, version: str, metadata_version: str | None, timeout_s: float | None
    ) -> Any:
        self.asked.append((name, version, metadata_version))
        known = {"smollm2": self._model, "identity": object()}
        if name not in known:
            raise ModelNotFound(name)
        return known[name]

    def statistics(self, model: str, version: int) -> VersionStatistics:
        assert (model, version) == ("smollm2", 1)
        return self.counts

    def statuses(self) -> list[Status]:
        return [
            Status("smollm2", 1, State.READY, memory_bytes=self._model.memory_bytes),
            Status("minilm", 4, State.LOADING, reason="fetching the artefact"),
        ]


@dataclass
class Rig:
    stub: node_pb2_grpc.NodeStub
    model: LoadedLanguageModel
    models: Models
    exporter: InMemorySpanExporter

    async def spans(self) -> dict[str, ReadableSpan]:
        """The finished spans, once the call's own is among them."""
        while True:
            spans = {span.name: span for span in self.exporter.get_finished_spans()}
            if "Generate" in spans:
                return spans
            await asyncio.sleep(0)


@pytest.fixture(params=["native", "grpcio"])
async def rig(
    request: pytest.FixtureRequest, demo_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    cache_dir: Path = tmp_path_factory.getbasetemp() / "compiled"
    implementation: Literal["native", "grpcio"] = request.param
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(
            open_model(demo_models.smollm2_gguf, cache_dir, slots=4)
        )
        plain = stack.enter_context(open_telemetry("test", "test-1", otlp_endpoint=None))
        telemetry = replace(plain, tracer=provider.get_tracer("test"))
        models = Models(model)
        servicer = NodeServicer("node-a", models, telemetry.tracer)
        binding = ServiceBinding(NAME, node_pb2_grpc.add_NodeServicer_to_server, servicer)
        server = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=[binding],
                telemetry=telemetry,
                implementation=implementation,
            )
        )
        channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}", plain))
        stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        yield Rig(stub, model, models, exporter)


def generate(**fields: Any) -> node_pb2.GenerateRequest:
    sampling = node_pb2.Sampling(temperature=0)
    return node_pb2.GenerateRequest(**{"model_name": "smollm2", "sampling": sampling, **fields})


def hello() -> node_pb2.ChatPrompt:
    message = node_pb2.ChatMessage(
        role="user", content="What is the capital of France? Answer in one sentence."
    )
    return node_pb2.ChatPrompt(messages=[message])


async def refusal(rig: Rig, **fields: Any) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in rig.stub.Generate(generate(**fields)):
            pass
    return error_from_rpc(failed.value)


async def test_a_stream_is_started_deltas_finished(rig: Rig) -> None:
    call = rig.stub.Generate(generate(chat=hello(), max_tokens=24, logprobs=1))
    events = [event async for event in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    assert len(kinds) > 5
    started, finished = events[0].started, events[-1].finished
    deltas = [event.delta for event in events[1:-1]]
    assert (started.node, started.model_version) == ("node-a", "1")
    text = "".join(delta.text for delta in deltas)
    assert "Paris" in text
    assert finished.reason == node_pb2.FINISH_REASON_STOP
    assert finished.prompt_tokens == started.prompt_tokens > 30
    tokens = [token for delta in deltas for token in delta.token_ids]
    assert finished.completion_tokens == len(tokens)
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.token_id for entry in entries] == tokens
    assert b"".join(entry.token for entry in entries).decode() == text
    assert all(entry.top[0].token_id == entry.token_id for entry in entries)
    assert finished.timing.decode_us > 0


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"json_schema": '{"enum": [12, "ja"]}'}, '12|"ja"'),
        ({"json_object": True}, r"\{.*"),
        ({"json_object": False}, ".*"),
        ({"regex": "[a-c]{4}"}, "[a-c]{4}"),
        ({"grammar": 'root ::= "x" | "yy"'}, "x|yy"),
        ({"choice": node_pb2.Choice(texts=["left", "right"])}, "left|right"),
    ],
)
async def test_a_text_has_the_form_that_is_asked_for(
    rig: Rig, form: dict[str, Any], pattern: str
) -> None:
    call = rig.stub.Generate(generate(chat=hello(), max_tokens=12, **form))
    text = "".join([event.delta.text async for event in call])
    assert re.fullmatch(pattern, text, re.DOTALL)


async def test_the_answer_names_node_and_version(rig: Rig) -> None:
    call = rig.stub.Generate(
        generate(text="The", max_tokens=1), metadata=(("x-ringmesh-version", "1"),)
    )
    metadata = dict(await call.initial_metadata())
    assert metadata["x-ringmesh-node"] == "node-a"
    assert metadata["x-ringmesh-version"] == "1"
    assert rig.models.asked == [("smollm2", "", "1")]
    async for _ in call:
        pass


async def test_queue_prefill_and_decode_are_spans_of_the_call(rig: Rig) -> None:
    async for _ in rig.stub.Generate(generate(text="Once upon a time", max_tokens=4)):
        pass
    spans = await rig.spans()
    call = spans["Generate"]
    for name in ("queue", "prefill", "decode"):
        parent = spans[name].parent
        assert parent is not None
        assert parent.span_id == call.context.span_id
    ends = [spans[name].end_time for name in ("queue", "prefill", "decode")]
    starts = [spans[name].start_time for name in ("prefill", "decode")]
    assert ends[:2] == starts
    assert dict(spans["decode"].attributes or {})["ringmesh.batch_size"] == 1
    assert dict(spans["prefill"].attributes or {})["ringmesh.cached_tokens"] == 0


async def test_a_caller_that_goes_away_frees_the_slot(rig: Rig) -> None:
    call = rig.stub.Generate(generate(text="The", max_tokens=2000, ignore_eos=True))
    seen = 0
    async for _ in call:
        seen += 1
        if seen == 3:
            call.cancel()
            break
    while rig.model.occupancy.running:
        await asyncio.sleep(0)
    assert "decode" in await rig.spans()


async def test_a_deadline_ends_the_call(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in rig.stub.Generate(
            generate(text="The", max_tokens=2000, ignore_eos=True), timeout=0.3
        ):
            pass
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while rig.model.occupancy.running:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "prompt"),
        ({"text": ""}, "prompt"),
        ({"chat": node_pb2.ChatPrompt()}, "prompt"),
        ({"text": "long " * 4000}, "prompt"),
        ({"text": "Hi", "max_tokens": -3}, "max_tokens"),
        ({"text": "Hi", "max_tokens": 0}, "max_tokens"),
        ({"text": "Hi", "logprobs": 21}, "logprobs"),
        ({"text": "Hi", "stop": [""]}, "stop"),
        ({"text": "Hi", "sampling": node_pb2.Sampling(temperature=1e9)}, "temperature"),
        ({"text": "Hi", "sampling": node_pb2.Sampling(top_p=float("nan"))}, "top_p"),
        ({"text": "Hi", "sampling": node_pb2.Sampling(top_k=-1)}, "top_k"),
        ({"model_name": "identity", "text": "Hi"}, "model_name"),
        ({"text": "Hi", "json_schema": '{"type": "strng"}'}, "json_schema"),
        ({"text": "Hi", "regex": "("}, "regex"),
        ({"text": "Hi", "grammar": "start: nowhere"}, "grammar"),
        ({"text": "Hi", "choice": node_pb2.Choice()}, "choice"),
    ],
)
async def test_a_wrong_field_is_named(rig: Rig, fields: dict[str, Any], field: str) -> None:
    error = await refusal(rig, **fields)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.field == field


async def test_an_unknown_model_is_not_found(rig: Rig) -> None:
    assert isinstance(await refusal(rig, model_name="gpt-9", text="Hi"), ModelNotFound)


async def test_models_are_listed_with_their_states(rig: Rig) -> None:
    models = (await rig.stub.ListModels(node_pb2.ListModelsRequest())).models
    assert [(m.model, m.version, m.state) for m in models] == [
        ("smollm2", "1", node_pb2.MODEL_STATE_READY),
        ("minilm", "4", node_pb2.MODEL_STATE_LOADING),
    ]
    assert models[0].memory_bytes > 100_000_000
    assert models[1].reason == "fetching the artefact"
