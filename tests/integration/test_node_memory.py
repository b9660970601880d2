"""A node process with a small budget: refusals with figures, paging under real requests."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from onnx import TensorProto, helper

from mesh.catalog import Catalog, Instance
from mesh.deployment import COUNTS_PREFIX, Assignment, Count
from mesh.manifest import Manifest
from mesh.memory_estimate import estimate_bytes
from mesh.pb import node_pb2
from tests.integration.consul_rig import ConsulRig, eventually
from tests.integration.node_process import node, place, status, store_files, tagged
from tests.integration.node_rig import artefact_files, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEIGHTS = 4_000_000
"""The bytes of each model's one matrix."""
BUDGET = 2 * WEIGHTS + WEIGHTS // 2


async def publish(state_dir: Path, name: str, *, may_page: bool) -> Assignment:
    """A model that multiplies by a matrix of its own, in the node's store."""
    folder = state_dir / "source" / name
    folder.mkdir(parents=True)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    matrix = np.random.default_rng(seed).normal(size=(1000, WEIGHTS // 4000)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    files = artefact_files(folder)
    await store_files(state_dir, folder)
    spec = spec_of(Manifest(name=name, task="tensor", format="onnx"), 1, *files)
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Assignment(
        model=name, spec=spec.model_copy(update={"digest": digest}), may_page=may_page
    )


async def infer(instance: Instance, model: str, timeout_s: float | None = None) -> np.ndarray:
    tensor = triton.InferInput("x", [1, 1000], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1000), np.float32))
    async with triton.InferenceServerClient(f"{instance.address}:{instance.port}") as client:
        result = await client.infer(model, [tensor], client_timeout=timeout_s)
        answer: np.ndarray = result.as_numpy("y")
        return answer


async def test_models_take_turns_in_memory_and_every_request_is_answered(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    names = ("one", "two", "three", "four")
    placed = [await publish(tmp_path, name, may_page=True) for name in names]
    async with asyncio.timeout(100), node(shared_consul, tmp_path, memory_budget_bytes=str(BUDGET)):
        await place(shared_catalog, *placed)
        instance = await tagged(shared_catalog, *(f"{name}@1" for name in names))
        assert instance.meta["memory_bytes"] == str(BUDGET)
        first = {name: await infer(instance, name) for name in names}
        assert len({each.tobytes() for each in first.values()}) == len(names)
        found = [await status(instance, name) for name in names]
        assert all(each.state == node_pb2.MODEL_STATE_READY for each in found)
        out = [each for each in found if each.memory_bytes == 0]
        assert len(out) == 2
        assert all(each.reason.startswith("paged out to make room for ") for each in out)
        async with triton.InferenceServerClient(f"{instance.address}:{instance.port}") as client:
            assert all([await client.is_model_ready(name) for name in names])
        looked_at = [await status(instance, name) for name in names]
        assert looked_at == found  # whoever watches a model does not bring it back
        many = [names[i % len(names)] for i in range(40)]
        answers = await asyncio.gather(*(infer(instance, name) for name in many))
        for name, answer in zip(many, answers, strict=True):
            np.testing.assert_array_equal(answer, first[name])
        assert await tagged(shared_catalog, *(f"{name}@1" for name in names))


async def test_a_model_that_does_not_fit_is_refused_with_figures_and_loaded_when_it_does(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    kept = [await publish(tmp_path, name, may_page=False) for name in ("five", "six")]
    late = await publish(tmp_path, "seven", may_page=True)
    async with asyncio.timeout(100), node(shared_consul, tmp_path, memory_budget_bytes=str(BUDGET)):
        await place(shared_catalog, *kept)
        instance = await tagged(shared_catalog, "five@1", "six@1")
        await place(shared_catalog, *kept, late)

        async def refused() -> node_pb2.ModelStatus:
            return await status(instance, "seven")

        told = await eventually(refused, lambda found: "needs" in found.reason)
        assert told.reason.startswith("seven@1 needs 4 MB of memory, and 2")
        assert "of 10 MB are free: " in told.reason
        assert "five@1 has 4 MB" in told.reason
        assert "six@1 has 4 MB" in told.reason
        counted = await shared_catalog.get(COUNTS_PREFIX + "seven/1")  # for those who place it
        assert counted is not None
        assert Count.from_json(counted.value) == Count(
            digest=late.spec.digest, needs_bytes=estimate_bytes(late.spec)
        )
        assert (await infer(instance, "five")).shape == (1, 1000)
        await place(shared_catalog, kept[0], late)
        await tagged(shared_catalog, "five@1", "seven@1")
        assert (await infer(instance, "seven")).shape == (1, 1000)


async def test_a_model_behind_one_that_never_rests_gets_its_turn(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    placed = [await publish(tmp_path, name, may_page=True) for name in ("eight", "nine")]
    budget = str(WEIGHTS + WEIGHTS // 2)
    async with asyncio.timeout(100), node(shared_consul, tmp_path, memory_budget_bytes=budget):
        await place(shared_catalog, *placed)
        instance = await tagged(shared_catalog, "eight@1", "nine@1")
        is_over = asyncio.Event()

        async def call_without_rest() -> int:
            count = 0
            while not is_over.is_set():
                assert (await infer(instance, "eight")).shape == (1, 1000)
                count += 1
            return count

        busy = [asyncio.create_task(call_without_rest()) for _ in range(4)]
        for _ in range(2):  # and the other comes back in between
            assert (await infer(instance, "nine")).shape == (1, 1000)
            assert (await infer(instance, "eight")).shape == (1, 1000)
        is_over.set()
        assert all(await asyncio.gather(*busy))
