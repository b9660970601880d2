"""ONNX graphs of any signature behind a node's real server, asked by an unmodified client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from onnx import TensorProto, numpy_helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from mesh.errors import FailedPrecondition
from services.inference.backends.backend import BackendFailed
from services.inference.tensor_graph.company import Company
from tests.integration import onnx_graphs as graphs
from tests.integration.failing_backend import Trouble
from tests.integration.node_rig import NodeRig, open_node

BATCHING = {"batching": {"max_batch_size": 8, "max_queue_delay_ms": 20.0}}
PATIENT = {"batching": {"max_batch_size": 8, "max_queue_delay_ms": 1000.0}}
"""Runs full batches only, when enough rows come."""
Arrays = dict[str, np.ndarray[Any, Any]]


@asynccontextmanager
async def serving(folder: Path, **options: Any) -> AsyncIterator[tuple[NodeRig, Any]]:
    model = await graphs.open_graph(folder, **options)
    async with open_node([model]) as rig, triton.InferenceServerClient(rig.address) as client:
        yield rig, client


async def ask(client: Any, inputs: Arrays, **options: Any) -> Arrays:
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    result = await client.infer("graph", tensors, **options)
    return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


async def refusal(client: Any, inputs: Arrays) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as refused:
        await ask(client, inputs)
    return refused.value.status(), refused.value.message()


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype("<f4")


async def test_a_graph_tells_its_own_signature(tmp_path: Path) -> None:
    folder = graphs.save_conv(tmp_path)
    async with serving(folder, instances=2, **BATCHING) as (_, client):
        metadata = await client.get_model_metadata("graph")
        config = (await client.get_model_config("graph")).config
    assert metadata.platform == "onnxruntime_onnx"
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("image", "FP32", [-1, 3, -1, -1])
    ]
    assert [(t.name, list(t.shape)) for t in metadata.outputs] == [("probabilities", [-1, 3])]
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 8
    assert [list(each.dims) for each in config.input] == [[3, -1, -1]]
    assert config.instance_group[0].count == 2


async def test_without_batching_a_request_runs_as_it_is(tmp_path: Path) -> None:
    async with serving(graphs.save_mlp(tmp_path / "free")) as (_, client):
        whole = await ask(client, {"x": random(3, 13)})
        none = await ask(client, {"x": random(0, 13)})
    assert whole["y"].shape == (3, 5)
    assert none["y"].shape == (0, 5)
    async with serving(graphs.save_mlp(tmp_path / "fixed", batch=2)) as (_, client):
        assert (await ask(client, {"x": random(2, 13)}))["y"].shape == (2, 5)
        status, message = await refusal(client, {"x": random(3, 13)})
    assert (status, "[2,13]" in message) == ("StatusCode.INVALID_ARGUMENT", True)


@pytest.mark.parametrize("save", [graphs.save_mlp, graphs.save_conv])
async def test_company_changes_no_bit(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    folder = save(tmp_path)
    name, shape = ("x", (13,)) if save is graphs.save_mlp else ("image", (3, 9, 11))
    asked = [{name: random(1 + n % 3, *shape, seed=n)} for n in range(24)]
    async with serving(folder) as (_, client):
        expected = [await ask(client, {name: one[name][:1]}) for one in asked]
    async with serving(folder, **PATIENT) as (rig, client):
        got = await asyncio.gather(*(ask(client, one) for one in asked))
        spans = rig.exporter.get_finished_spans()
    for one, other in zip(expected, got, strict=True):
        for output in one:
            assert np.array_equal(one[output][0], other[output][0])
    sizes = {s.attributes["ringmesh.batch_size"] for s in spans if s.name == "compute"}
    assert max(sizes) == 8


async def test_a_request_larger_than_a_batch_is_spread_over_several(tmp_path: Path) -> None:
    async with serving(graphs.save_mlp(tmp_path), **BATCHING) as (_, client):
        x = random(21, 13)
        whole = await ask(client, {"x": x})
        parts = [await ask(client, {"x": x[n : n + 1]}) for n in range(21)]
        none = await ask(client, {"x": x[:0]})
    assert np.array_equal(whole["y"], np.concatenate([part["y"] for part in parts]))
    assert none["y"].shape == (0, 5)


async def test_rows_that_would_change_each_other_are_kept_apart(tmp_path: Path) -> None:
    folder = graphs.save_whole_batch_scale(tmp_path)
    model = await graphs.open_graph(folder, **BATCHING)
    assert model._company is Company.NONE
    assert "one by one" in model.remark
    small, large = random(1, 16), 1000 * random(1, 16, seed=1)
    async with open_node([model]) as rig, triton.InferenceServerClient(rig.address) as client:
        alone = await ask(client, {"x": small})
        together = await asyncio.gather(*(ask(client, {"x": x}) for x in (small, large) * 8))
    assert all(np.array_equal(alone["y"], got["y"]) for got in together[::2])


async def test_who_does_not_mind_gets_batches_all_the_same(tmp_path: Path) -> None:
    batching = {"batching": {**BATCHING["batching"], "exact": False}}
    model = await graphs.open_graph(graphs.save_whole_batch_scale(tmp_path), **batching)
    assert (model._company, model.remark) == (Company.ANY, "")
    await model.close()


async def test_a_bad_value_fails_alone_and_names_the_input(tmp_path: Path) -> None:
    async with serving(graphs.save_lookup(tmp_path), **BATCHING) as (_, client):
        good = [ask(client, {"id": np.array([n % 3])}) for n in range(6)]
        bad = refusal(client, {"id": np.array([9])})
        (status, message), *rows = await asyncio.gather(bad, *good)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "inputs.id" in message
    assert "9" in message
    assert all(row["row"].shape == (1, 4) for row in rows)


async def test_shapes_that_contradict_each_other_name_the_input(tmp_path: Path) -> None:
    async with serving(graphs.save_sum(tmp_path)) as (_, client):
        got = await ask(client, {"a": random(2, 3), "b": random(2, 3)})
        status, message = await refusal(client, {"a": random(2, 3), "b": random(2, 4)})
    assert got["sum"].shape == (2, 3)
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "inputs.b: axis 1 (k) has length 4, but in 'a' it has 3" in message


async def test_inputs_with_different_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    async with serving(graphs.save_sum(tmp_path), **BATCHING) as (_, client):
        status, message = await refusal(client, {"a": random(2, 3), "b": random(1, 3)})
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "inputs.b" in message


async def test_a_failure_of_the_graph_is_the_nodes(tmp_path: Path) -> None:
    folder = graphs.save_sum(tmp_path, shapes=(["n", "k"], ["m", "l"]))
    async with serving(folder) as (_, client):
        status, message = await refusal(client, {"a": random(2, 3), "b": random(2, 4)})
    assert status == "StatusCode.INTERNAL"
    assert "Add" in message


@pytest.mark.parametrize("batching", [{}, BATCHING])
async def test_an_engine_that_fails_for_everybody_is_told_from_bad_requests(
    tmp_path: Path, batching: dict[str, Any]
) -> None:
    trouble = Trouble()
    folder = graphs.save_sum(tmp_path, shapes=(["n", "k"], ["m", "l"]))
    model = await graphs.open_graph(folder, trouble=trouble, **batching)
    broken = asyncio.create_task(model.broken())
    async with open_node([model]) as rig, triton.InferenceServerClient(rig.address) as client:
        for _ in range(5):
            status, _ = await refusal(client, {"a": random(2, 3), "b": random(2, 4)})
            assert status == "StatusCode.INTERNAL"
        got = await ask(client, {"a": random(2, 3), "b": random(2, 3)})
        assert got["sum"].shape == (2, 3)
        assert not broken.done()
        trouble.error = BackendFailed("odd")
        while not broken.done():
            status, _ = await refusal(client, {"a": random(2, 3), "b": random(2, 3)})
            assert status == "StatusCode.INTERNAL"
        assert "odd" in await broken


async def test_texts_pass_and_must_be_utf8(tmp_path: Path) -> None:
    kind = TensorProto.STRING
    ends = [graphs.tensor(name, ["n", "m"], kind) for name in ("text", "same")]
    folder = graphs.save(
        tmp_path, [graphs.node("Identity", ["text"], ["same"])], ends[:1], ends[1:]
    )
    async with serving(folder, **BATCHING) as (_, client):
        texts = np.array([["", "é"], ["a\0b", "x" * 1000]], object)
        got = await ask(client, {"text": texts})
        status, message = await refusal(client, {"text": np.array([[b"\xff"]], object)})
    assert got["same"].tolist() == [[t.encode() for t in row] for row in texts]
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "inputs.text: element 0 is not UTF-8" in message


async def test_labels_name_the_places_of_an_output(tmp_path: Path) -> None:
    labels = {"labels": {"probabilities": ["cat", "dog", "bird"]}}
    async with serving(graphs.save_conv(tmp_path), **labels) as (_, client):
        image = random(1, 3, 8, 8)
        probabilities = (await ask(client, {"image": image}))["probabilities"][0]
        wanted = triton.InferRequestedOutput("probabilities", class_count=1)
        got = await ask(client, {"image": image}, outputs=[wanted])
    best = int(probabilities.argmax())
    (text,) = got["probabilities"].ravel()
    assert text.decode().split(":")[1:] == [str(best), ["cat", "dog", "bird"][best]]


async def test_instances_run_at_once(tmp_path: Path) -> None:
    async with serving(graphs.save_mlp(tmp_path), instances=3, **BATCHING) as (_, client):
        asked = [{"x": random(2, 13, seed=n)} for n in range(40)]
        got = await asyncio.gather(*(ask(client, one) for one in asked))
        alone = [await ask(client, one) for one in asked]
    for one, other in zip(got, alone, strict=True):
        assert np.array_equal(one["y"], other["y"])


async def test_external_data_is_found(tmp_path: Path) -> None:
    folder = graphs.save_mlp(tmp_path / "external", external=True)
    assert (folder / "model.data").is_file()
    async with serving(graphs.save_mlp(tmp_path / "inside")) as (_, client):
        expected = await ask(client, {"x": random(2, 13)})
    async with serving(folder) as (_, client):
        assert np.array_equal((await ask(client, {"x": random(2, 13)}))["y"], expected["y"])


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda at: graphs.save_mlp(at, batch=1), BATCHING, r"input 'x' of shape \[1,13\] has no"),
        (lambda at: at.mkdir() or at, {}, r"no \.onnx file"),
        (
            graphs.save_conv,
            {"labels": {"probabilities": ["cat"]}},
            r"labels\.probabilities: 1 labels for 3 places",
        ),
        (graphs.save_conv, {"labels": {"p": []}}, r"labels\.p: there is no such output"),
        (
            graphs.save_mlp,
            {"warm_up": [{"inputs": {"x": {"datatype": "FP32", "shape": [1, 14]}}}]},
            r"warm_up\.0 failed: inputs\.x: .*\[-1,13\]",
        ),
        (
            graphs.save_lookup,
            {"warm_up": [{"inputs": {"id": {"datatype": "INT64", "shape": [1], "values": [7]}}}]},
            r"warm_up\.0 failed: inputs\.id",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_with_its_reason(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await graphs.open_graph(make(tmp_path / "graph"), **options)


async def test_two_graphs_are_one_too_many(tmp_path: Path) -> None:
    folder = graphs.save_mlp(tmp_path)
    (folder / "other.onnx").write_bytes(b"")
    with pytest.raises(FailedPrecondition, match=r"several .*: model\.onnx, other\.onnx"):
        await graphs.open_graph(folder)


async def test_a_graph_that_fails_on_all_inputs_does_not_become_ready(tmp_path: Path) -> None:
    nodes = [graphs.node("Reshape", ["x", "shape"], ["y"])]
    shape = numpy_helper.from_array(np.array([3, 3]), "shape")
    ends = [graphs.tensor("x", [2, 3])], [graphs.tensor("y", ["k", "m"])]
    folder = graphs.save(tmp_path, nodes, *ends, [shape])
    with pytest.raises(FailedPrecondition):
        await graphs.open_graph(folder)


async def test_an_output_without_rows_is_found_out_before_anybody_asks(tmp_path: Path) -> None:
    nodes = [graphs.node("Reshape", ["x", "shape"], ["flat"])]
    shape = numpy_helper.from_array(np.array([-1]), "shape")
    ends = [graphs.tensor("x", ["n", 3])], [graphs.tensor("flat", ["m"])]
    folder = graphs.save(tmp_path, nodes, *ends, [shape])
    with pytest.raises(FailedPrecondition, match=r"'flat' .*axis 0 must be 2 long"):
        await graphs.open_graph(folder, **BATCHING)


async def test_a_caller_that_leaves_leaves_the_others_alone(tmp_path: Path) -> None:
    async with serving(graphs.save_mlp(tmp_path), **BATCHING) as (_, client):
        expected = await ask(client, {"x": random(1, 13)})
        calls = [asyncio.create_task(ask(client, {"x": random(1, 13)})) for _ in range(20)]
        for call in calls[::3]:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(np.array_equal(got["y"], expected["y"]) for got in ended if isinstance(got, dict))
    assert sum(isinstance(got, dict) for got in ended) >= 13


RAGGED = {"inputs": {"vectors": 1, "mask": 1}, "outputs": {"doubled": 1}, "longest": 40}


async def test_rows_of_different_lengths_share_a_batch(tmp_path: Path) -> None:
    batching = {"batching": {**PATIENT["batching"], "ragged": [RAGGED]}}
    asked = [
        {"vectors": random(1, length, 4, seed=length), "mask": np.ones((1, length), np.int64)}
        for length in (1, 3, 8, 5, 2, 7, 6, 4)
    ]
    folder = graphs.save_masked_mean(tmp_path)
    async with serving(folder, batching={"ragged": [RAGGED], "max_queue_delay_ms": 0.0}) as (
        _,
        client,
    ):
        alone = [await ask(client, one) for one in asked]
    async with serving(folder, **batching) as (rig, client):
        together = await asyncio.gather(*(ask(client, one) for one in asked))
        spans = rig.exporter.get_finished_spans()
        too_long = {"vectors": random(1, 41, 4), "mask": np.ones((1, 41), np.int64)}
        status, message = await refusal(client, too_long)
    for one, lone, shared in zip(asked, alone, together, strict=True):
        assert np.allclose(lone["mean"], one["vectors"].mean(axis=1), atol=1e-6)
        assert np.array_equal(shared["mean"], lone["mean"])
        assert np.array_equal(shared["doubled"], 2 * one["vectors"])
    assert {s.attributes["ringmesh.batch_size"] for s in spans if s.name == "compute"} == {8}
    assert (status, "inputs.vectors" in message) == ("StatusCode.INVALID_ARGUMENT", True)


@pytest.mark.parametrize(
    ("ragged", "message"),
    [
        ({"inputs": {"vector": 1}}, "no input 'vector'"),
        ({"inputs": {"vectors": 2}}, "axis 2 of input 'vectors' is not one of any length"),
        ({"inputs": {"mask": 3}}, "axis 3 of input 'mask' is not"),
        ({"inputs": {"mask": 1}, "outputs": {"mean": 1}}, "axis 1 of output 'mean' is not"),
        (
            {"inputs": {"mask": 1}, "pads": {"vectors": 1}},
            "'vectors' has a pad, but no ragged axis",
        ),
    ],
)
async def test_a_ragged_axis_must_be_one_of_the_graph(
    tmp_path: Path, ragged: dict[str, Any], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await graphs.open_graph(graphs.save_masked_mean(tmp_path), batching={"ragged": [ragged]})


async def test_a_graph_without_inputs_has_an_answer_all_the_same(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([1.5, 2], "f"))
    nodes = [graphs.node("Constant", [], ["always"], value=value)]
    folder = graphs.save(tmp_path, nodes, [], [graphs.tensor("always", [2])])
    async with serving(folder) as (_, client):
        assert (await ask(client, {}))["always"].tolist() == [1.5, 2]
