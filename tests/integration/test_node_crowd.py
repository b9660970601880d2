"""Two hundred callers at once, on the node itself and by both of the gateway's protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto
from prometheus_client import CollectorRegistry

from mesh.local.demo_models import DemoModels
from mesh.manifest import Manifest
from mesh.pb import inference_pb2 as oip
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from services.inference.backends.available import make_backends
from services.inference.backends.backend import BackendSettings
from services.inference.batching.metrics import BatchingMetrics
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.models.identity import open_identity
from services.inference.models.tensor_place import TensorPlace
from services.inference.tensor_graph.onnx_model import open_onnx_model
from tests.integration import onnx_graphs as graphs
from tests.integration.crowd import (
    Caller,
    Fate,
    Outcome,
    ask_alone,
    ask_identity,
    ask_in_crowd,
    ask_minilm,
    ask_unknown_output,
    ask_wrong_text,
    check_outcome,
    check_statistics,
    grpc_lane,
    is_text,
    make_crowd,
    rest_lane,
    since,
    tensor,
    want,
)
from tests.integration.node_rig import spec_of
from tests.integration.oip_rig import Lanes, open_lanes

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

CALLERS = 200
LEVELS = {
    "max_batch_size": 8,
    "max_queue_delay_ms": 5.0,
    "preferred_batch_sizes": [6],
    "priority_levels": 3,
    "default_priority_level": 2,
    "priority_queue_policy": {"3": {"timeout_action": "DELAY"}},
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "minilm": {"task": "text-embedding", "format": "sentence-transformers"},
    "scores": {"task": "tensor", "format": "onnx", "batching": LEVELS, "instances": 2},
    "lookup": {
        "task": "tensor",
        "format": "onnx",
        "batching": {"max_batch_size": 16, "max_queue_delay_ms": 10.0},
    },
    "identity": {"task": "tensor", "format": "identity"},
}


def save_scores(folder: Path) -> Path:
    """13 numbers in; 5 scores and the best of them out."""
    nodes = [
        graphs.node("Gemm", ["x", "w"], ["score"], transB=1),
        graphs.node("ArgMax", ["score"], ["best"], axis=1, keepdims=0),
    ]
    outputs = [
        graphs.tensor("score", ["n", 5]),
        graphs.tensor("best", ["n"], TensorProto.INT64),
    ]
    inputs = [graphs.tensor("x", ["n", 13])]
    return graphs.save(folder, nodes, inputs, outputs, [graphs.weights("w", 5, 13)])


def ask_scores(rng: np.random.Generator) -> oip.ModelInferRequest:
    """Any priority there is, now and then a timeout."""
    request = oip.ModelInferRequest(model_name="scores")
    tensor(request, "x", "FP32", rng.standard_normal((int(rng.integers(1, 12)), 13)).astype("<f4"))
    want(request, rng, "score", "best")
    priority = int(rng.integers(4))
    if priority:
        request.parameters["priority"].uint64_param = priority
    if priority == 3:
        request.parameters["timeout"].int64_param = int(rng.integers(1, 1000))
    return request


def ask_lookup(rng: np.random.Generator) -> oip.ModelInferRequest:
    """Rows of a table."""
    request = oip.ModelInferRequest(model_name="lookup")
    tensor(request, "id", "INT64", rng.integers(0, 3, int(rng.integers(1, 6))))
    return request


def ask_beyond(rng: np.random.Generator) -> oip.ModelInferRequest:
    """A row that the table does not have: the engine fails, for whoever is in the batch."""
    request = oip.ModelInferRequest(model_name="lookup")
    tensor(request, "id", "INT64", np.array([0, int(rng.integers(3, 9)), 1]))
    return request


def ask_unknown_level(rng: np.random.Generator) -> oip.ModelInferRequest:
    """A priority that there is not."""
    request = ask_scores(rng)
    request.parameters["priority"].uint64_param = 9
    return request


ASKS = [
    *[ask_identity, ask_minilm, ask_scores, ask_scores, ask_lookup, ask_lookup] * 3,
    *[ask_wrong_text, ask_unknown_output, ask_beyond, ask_unknown_level],
]


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lanes(
    demo_models: DemoModels, tmp_path_factory: pytest.TempPathFactory, registry: CollectorRegistry
) -> AsyncIterator[Lanes]:
    folder = tmp_path_factory.mktemp("crowd")
    place = TensorPlace(
        cache_dir=folder / "cache",
        backends=make_backends(BackendSettings(threads=1)),
        metrics=BatchingMetrics(registry),
        max_queue_rows=4096,
    )
    specs = {
        name: spec_of(Manifest.model_validate({"name": name, **document}))
        for name, document in DOCUMENTS.items()
    }
    models = [
        open_identity(specs["identity"]),
        await open_sentence_encoder(demo_models.minilm_folder, specs["minilm"], place),
        await open_onnx_model(save_scores(folder / "scores"), specs["scores"], place),
        await open_onnx_model(graphs.save_lookup(folder / "lookup"), specs["lookup"], place),
    ]
    manifests = [specs[model.name].manifest for model in models]
    entries = [(m, spec.task, spec.format) for m, spec in zip(models, manifests, strict=True)]
    async with open_lanes(*entries) as opened:
        yield opened


async def counted(lanes: Lanes, model: str) -> oip.ModelStatistics:
    """What the node says, once nobody is with the model any more."""
    assert await lanes.node.table.wait_until_idle((model, 1), 30)
    answer = await lanes.node.stub.ModelStatistics(oip.ModelStatisticsRequest(name=model))
    return answer.model_stats[0]


def of_model(crowd: list[Caller], model: str) -> list[Caller]:
    return [caller for caller in crowd if caller.request.model_name == model]


@pytest.mark.parametrize("seed", [1, 2])
async def test_everyone_in_a_crowd_gets_what_they_get_alone(
    lanes: Lanes, registry: CollectorRegistry, seed: int
) -> None:
    crowd = make_crowd(ASKS, CALLERS, seed)
    async with (
        grpc.aio.insecure_channel(lanes.gateway) as channel,
        httpx.AsyncClient(base_url=f"http://{lanes.http}", limits=httpx.Limits()) as client,
    ):
        ways = [
            grpc_lane(lanes.node.stub.ModelInfer),
            grpc_lane(GRPCInferenceServiceStub(channel).ModelInfer),
            rest_lane(client),
        ]
        way_of = [ways[n % (3 if is_text(each.request) else 2)] for n, each in enumerate(crowd)]
        asking = list(zip(way_of, crowd, strict=True))
        alone = [await ask_alone(way, caller) for way, caller in asking]
        before = {model: await counted(lanes, model) for model in DOCUMENTS}
        lookups = registry.get_sample_value("ringmesh_batch_rows_count", labels("lookup")) or 0
        got = await asyncio.gather(*(ask_in_crowd(way, caller) for way, caller in asking))
    for caller, expected, outcome in zip(crowd, alone, got, strict=True):
        check_outcome(caller, expected, outcome)
    check_mix(crowd, got)
    assert all(
        any(o.response for w, o in zip(way_of, got, strict=True) if w is way) for way in ways
    )
    for model in DOCUMENTS:
        added = since(await counted(lanes, model), before[model])
        asked = of_model(crowd, model)
        ids = {caller.request.id for caller in asked}
        answered = zip(crowd, got, strict=True)
        ok = sum(bool(o.response) for caller, o in answered if caller.request.id in ids)
        check_statistics(added, asked, ok)
    waiting = [s for metric in registry.collect() for s in metric.samples if is_queue(s.name)]
    assert {sample.labels["model_name"] for sample in waiting} == {"minilm", "scores", "lookup"}
    assert all(sample.value == 0 for sample in waiting)
    ran = registry.get_sample_value("ringmesh_batch_rows_count", labels("lookup")) or 0
    assert ran - lookups < len(of_model(crowd, "lookup")), "nobody found company"


def check_mix(crowd: list[Caller], got: list[Outcome]) -> None:
    """That there was something to get wrong: answers, refusals, late ones and such who left."""
    assert {caller.fate for caller in crowd} == set(Fate)
    codes = [outcome.code for outcome in got]
    assert codes.count(grpc.StatusCode.OK) > CALLERS / 2
    assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) > 5


def labels(model: str) -> dict[str, str]:
    return {"model_name": model, "model_version": "1"}


def is_queue(name: str) -> bool:
    return name == "ringmesh_queue_rows"
