"""A graph as a model: what its callers may ask of it, over an engine of numpy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.deployment import VersionSpec
from mesh.errors import InvalidArgument
from mesh.manifest import Manifest
from mesh.tensor import Array, Tensor
from services.inference.backends.backend import BackendFailed, BackendLost, GraphTensor
from services.inference.backends.choice import Opening
from services.inference.backends.health import FAILURES_IN_A_ROW
from services.inference.backends.instance_group import InstanceGroup
from services.inference.batching.batcher import open_batcher
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.ragged import RaggedAxis, Tensors
from services.inference.batching.terms import ANY_TIME
from services.inference.models.tensor_model import Signature
from services.inference.tensor_graph.company import Company
from services.inference.tensor_graph.loaded_graph import LoadedGraph
from services.inference.tensor_graph.model import (
    Answerer,
    GraphModel,
    RequestAnswerer,
    RowAnswerer,
)
from services.inference.tensor_graph.signature import make_signature


class Numpy:
    """An engine that computes `y` from `x`."""

    is_concurrent = True
    memory_bytes = 0

    def __init__(self, compute: Callable[[Array], Array], x: GraphTensor) -> None:
        self.compute = compute
        self.inputs = (x,)
        self.outputs = (GraphTensor("y", x.datatype, x.shape),)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        return [self.compute(inputs["x"]) for _ in outputs]

    def close(self) -> None:
        """Nothing to free."""


def graph_of(runner: Numpy, batching: BatchingOptions, *ragged: RaggedAxis) -> LoadedGraph:
    signature: Signature = make_signature(
        "numpy", runner.inputs, runner.outputs, rankless=(), batching=batching, labels={}
    )
    group = InstanceGroup((runner,))
    return LoadedGraph(group, Opening("numpy"), signature, ragged, Company.ANY)


@asynccontextmanager
async def opened(
    runner: Numpy,
    *ragged: RaggedAxis,
    sample: Tensors | None = None,
    max_rows: int = 100,
    warm_up: Sequence[Any] = (),
    by_row: bool = True,
    **options: Any,
) -> AsyncIterator[GraphModel]:
    batching = BatchingOptions(**options)
    manifest = Manifest.model_validate(
        {"name": "g", "task": "tensor", "format": "onnx", "warm_up": list(warm_up)}
    )
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    graph = graph_of(runner, batching, *ragged)
    meter = BatchingMetrics(CollectorRegistry()).meter("g", 1)
    async with AsyncExitStack() as stack:
        answerer: Answerer
        if by_row:
            rows = open_batcher("g", graph.row_runs, batching, meter, max_rows=max_rows)
            answerer = RowAnswerer(await stack.enter_async_context(rows), graph)
        else:
            requests = open_batcher("g", graph.request_runs, batching, meter, max_rows=max_rows)
            answerer = RequestAnswerer(await stack.enter_async_context(requests))
        yield GraphModel(spec, graph, answerer, sample, "", lifetime=AsyncExitStack())


def doubling(datatype: str = "FP32", shape: tuple[int, ...] = (-1, -1)) -> Numpy:
    return Numpy(lambda x: x + x, GraphTensor("x", datatype, shape))


def numbers(*shape: int, value: float = 1) -> Tensor:
    return Tensor("x", "FP32", shape, np.full(shape, value, "<f4").tobytes())


MANY = 10**12
TOO_MANY = f"inputs: {MANY} rows are more than the 100 that may wait"


@pytest.mark.parametrize("ragged", [(), (RaggedAxis({"x": 1}, {"y": 1}),)])
async def test_rows_without_elements_are_counted_before_they_are_made(
    ragged: tuple[RaggedAxis, ...],
) -> None:
    async with opened(doubling(), *ragged) as model:
        with pytest.raises(InvalidArgument, match=TOO_MANY) as refused:
            await model.infer((Tensor("x", "FP32", (MANY, 0), b""),), ANY_TIME)
        assert refused.value.metadata["field"] == "inputs"
        outputs = (await model.infer((numbers(100, 1),), ANY_TIME)).outputs
        assert outputs[0].shape == (100, 1)


async def test_texts_are_counted_before_they_are_read() -> None:
    async with opened(doubling("BYTES")) as model:
        asked = Tensor("x", "BYTES", (MANY, 1), b"\x01\x00\x00\x00\xff")
        with pytest.raises(InvalidArgument, match=TOO_MANY):
            await model.infer((asked,), ANY_TIME)


POLICY = QueuePolicy(max_queue_rows=2, default_timeout_ms=0.000001)
WARM_UP = {"inputs": {"x": {"datatype": "FP32", "shape": [8, 1]}}}


async def test_the_callers_queue_policy_does_not_apply_to_the_warm_up() -> None:
    async with opened(doubling(), warm_up=[WARM_UP], default_queue_policy=POLICY) as model:
        await model.warm_up()


class Poisoned:
    """Doubles numbers but 13; once it is out of order, nothing."""

    def __init__(self) -> None:
        self.error: Exception = BackendFailed("cannot be computed")
        self.is_broken = False

    def __call__(self, x: Array) -> Array:
        if (self.is_broken and x.size) or (x == 13).any():
            raise self.error
        return x + x


async def fail(model: GraphModel, times: int = FAILURES_IN_A_ROW) -> None:
    for _ in range(times):
        with pytest.raises(BackendFailed):
            await model.infer((numbers(1, 1, value=13),), ANY_TIME)


async def test_the_callers_queue_policy_does_not_apply_to_the_probe() -> None:
    engine, sample = Poisoned(), {"x": np.ones((8, 1), "<f4")}
    policy = QueuePolicy(max_queue_rows=2)
    x = GraphTensor("x", "FP32", (-1, -1))
    async with opened(Numpy(engine, x), sample=sample, default_queue_policy=policy) as model:
        engine.is_broken = True
        await fail(model)
        async with asyncio.timeout(10):
            assert "in a row" in await model.broken()


async def test_callers_cannot_close_a_model_that_has_not_run_yet() -> None:
    async with opened(Numpy(Poisoned(), GraphTensor("x", "FP32", (-1, -1)))) as model:
        broken = asyncio.create_task(model.broken())
        await fail(model, 2 * FAILURES_IN_A_ROW)
        await model.infer((numbers(0, 1),), ANY_TIME)  # of which nothing is computed: no sample
        await fail(model)
        await model.infer((numbers(1, 1),), ANY_TIME)
        assert not broken.done()
        broken.cancel()


@pytest.mark.parametrize("by_row", [True, False])
async def test_an_engine_without_a_sample_is_tried_with_what_ran_first(by_row: bool) -> None:
    engine = Poisoned()
    x = GraphTensor("x", "FP32", (-1, -1))
    async with opened(Numpy(engine, x), by_row=by_row) as model:
        await model.infer((numbers(0, 1),), ANY_TIME)
        await model.infer((numbers(2, 1),), ANY_TIME)
        engine.is_broken = True
        await fail(model)
        async with asyncio.timeout(10):
            assert "in a row" in await model.broken()


async def test_an_engine_that_is_lost_is_broken_without_any_trial() -> None:
    engine = Poisoned()
    engine.error = BackendLost("no such device")
    async with opened(Numpy(engine, GraphTensor("x", "FP32", (-1, -1)))) as model:
        await fail(model, 1)
        async with asyncio.timeout(10):
            assert await model.broken() == "the engine is lost: no such device"
