"""A real language model behind the Open Inference Protocol: a text in, its continuation out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton

from mesh.errors import error_from_rpc
from mesh.pb import inference_pb2 as oip
from mesh.pb import node_pb2, node_pb2_grpc
from mesh.tensor import decode_raw
from tests.integration.llm_support import golden, open_model
from tests.integration.node_rig import NodeRig, open_node

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(demo_models: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NodeRig]:
    cache_dir = tmp_path_factory.getbasetemp() / "compiled"
    async with (
        open_model(demo_models.smollm2_gguf, cache_dir, slots=4, weights="fp32") as model,
        open_node([model]) as opened,
    ):
        yield opened


def request(text: str, **parameters: Any) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name="smollm2")
    tensor = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    for name, value in {"temperature": 0.0, **parameters}.items():
        kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(message.parameters[name], kinds[type(value)], value)
    return message


async def complete(rig: NodeRig, text: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
    answer = await rig.stub.ModelInfer(request(text, **parameters))
    raw = answer.raw_output_contents[0]
    (output,) = decode_raw("BYTES", answer.outputs[0].shape, raw, field="text_output")
    facts = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in answer.parameters.items()
    }
    return output.decode(), facts


async def test_a_text_is_continued_as_the_reference_does(rig: NodeRig) -> None:
    case = next(case for case in golden()["generations"] if "text" in case)
    text, facts = await complete(rig, case["text"], max_tokens=16)
    assert text
    assert case["greedy_text"].startswith(text)
    assert facts == {
        "prompt_tokens": len(case["prompt_ids"]),
        "completion_tokens": 16,
        "finish_reason": "length",
    }


async def test_a_text_has_the_form_that_is_asked_for(rig: NodeRig) -> None:
    text, facts = await complete(rig, "The year was", regex=" (19|20)[0-9]{2}", max_tokens=9)
    assert re.fullmatch(r" (19|20)\d\d", text)
    assert facts["finish_reason"] == "stop"
    assert (await complete(rig, "{", json_object=True, max_tokens=3))[0].startswith("{")


async def test_callers_at_once_get_what_each_gets_alone(rig: NodeRig) -> None:
    texts = [case["text"] for case in golden()["generations"] if "text" in case][:4]
    sampled = {"max_tokens": 12, "temperature": 0.9, "seed": 7}
    alone = [(await complete(rig, text, **sampled))[0] for text in texts]
    together = await asyncio.gather(*(complete(rig, text, **sampled) for text in texts))
    assert [text for text, _ in together] == alone


async def test_an_unmodified_triton_client_asks_for_text(rig: NodeRig) -> None:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"The capital of France is"], dtype=np.object_))
    async with triton.InferenceServerClient(rig.address) as client:
        assert await client.is_model_ready("smollm2")
        metadata = await client.get_model_metadata("smollm2")
        parameters = {"max_tokens": 4, "temperature": 0.0}
        result = await client.infer("smollm2", [tensor], parameters=parameters)
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("text_input", "BYTES", [1])
    ]
    assert b"Paris" in result.as_numpy("text_output")[0]


def text_input(text: str) -> triton.InferInput:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    return tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))


def text_of(responses: list[oip.ModelInferResponse]) -> str:
    raws = [raw for each in responses for raw in each.raw_output_contents]
    return "".join(decode_raw("BYTES", (1,), raw, field="x")[0].decode() for raw in raws)


@pytest.mark.parametrize("wants_empty", [False, True])
async def test_a_stream_brings_the_text_in_pieces(rig: NodeRig, wants_empty: bool) -> None:
    whole, facts = await complete(rig, "Once upon a time", max_tokens=12)

    asked = request(
        "Once upon a time", max_tokens=12, triton_enable_empty_final_response=wants_empty
    )
    asked.id = "r-1"
    responses = [each.infer_response async for each in rig.stub.ModelStreamInfer(iter([asked]))]
    config = (await rig.stub.ModelConfig(oip.ModelConfigRequest(name="smollm2"))).config
    assert config.model_transaction_policy.decoupled
    assert len(responses) > 5
    assert text_of(responses) == whole
    marks = [each.parameters["triton_final_response"].bool_param for each in responses]
    assert marks == [False] * (len(responses) - 1) + [True]
    final = responses[-1]
    assert len(final.outputs) == (0 if wants_empty else 1)
    assert final.parameters["completion_tokens"].int64_param == facts["completion_tokens"]
    assert {each.id for each in responses} == {"r-1"}


async def test_an_unmodified_triton_client_streams(rig: NodeRig) -> None:
    async def feed():
        parameters = {"max_tokens": 6, "temperature": 0.0}
        inputs = [text_input("The capital of France is")]
        yield {"model_name": "smollm2", "inputs": inputs, "parameters": parameters}

    async with triton.InferenceServerClient(rig.address) as client:
        pairs = [pair async for pair in client.stream_infer(feed())]
    assert [error for _, error in pairs if error] == []
    pieces = [result.as_numpy("text_output")[0].decode() for result, _ in pairs]
    assert "Paris" in "".join(pieces)


async def test_generations_of_one_stream_go_on_side_by_side(rig: NodeRig) -> None:
    alone, _ = await complete(rig, "Once", max_tokens=8)
    call = rig.stub.ModelStreamInfer()
    for name in ("a", "b", "bad"):
        asked = request("Once", max_tokens=-1 if name == "bad" else 8)
        asked.id = name
        await call.write(asked)
    await call.done_writing()
    responses = [each async for each in call]
    order = [each.infer_response.id for each in responses if not each.error_message]
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")
    for name in ("a", "b"):
        mine = [each.infer_response for each in responses if each.infer_response.id == name]
        assert text_of(mine) == alone
    (failed,) = (each for each in responses if each.error_message)
    assert (failed.infer_response.id, "max_tokens" in failed.error_message) == ("bad", True)


async def test_leaving_a_stream_frees_the_slot(rig: NodeRig) -> None:
    model = rig.table.find("smollm2", "", None)
    call = rig.stub.ModelStreamInfer()
    await call.write(request("Once", max_tokens=1500, ignore_eos=True))
    await call.read()
    assert model.occupancy.running == 1
    call.cancel()
    async with asyncio.timeout(10):
        while model.occupancy.running:
            await asyncio.sleep(0)


async def test_a_timeout_ends_a_generation(rig: NodeRig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.stub.ModelInfer(
            request("Once", max_tokens=1500, ignore_eos=True, timeout=200_000)
        )
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_queue_prefill_and_decode_are_spans_of_the_call(rig: NodeRig) -> None:
    rig.exporter.clear()
    await complete(rig, "Once upon a time", max_tokens=4)
    spans = await rig.spans("ModelInfer")
    for name in ("queue", "prefill", "decode"):
        assert spans[name].parent.span_id == spans["ModelInfer"].context.span_id


async def test_generations_are_counted_whichever_call_asked_for_them(rig: NodeRig) -> None:
    async def counted() -> oip.ModelStatistics:
        return (await rig.stub.ModelStatistics(oip.ModelStatisticsRequest())).model_stats[0]

    before = await counted()
    await complete(rig, "Once upon a time", max_tokens=4)
    asked = node_pb2.GenerateRequest(model_name="smollm2", text="Once", max_tokens=4)
    async with grpc.aio.insecure_channel(rig.address) as channel:
        node = node_pb2_grpc.NodeStub(channel)
        async for _ in node.Generate(asked):
            pass
        leaving = node.Generate(node_pb2.GenerateRequest(model_name="smollm2", text="Once"))
        await leaving.read()
        leaving.cancel()
        async with asyncio.timeout(10):
            failed = before.inference_stats.fail.count
            while (after := await counted()).inference_stats.fail.count == failed:
                await asyncio.sleep(0)
    assert after.inference_count - before.inference_count == 2
    stats = after.inference_stats
    assert stats.success.count - before.inference_stats.success.count == 2
    parts = (stats.compute_input, stats.queue, stats.compute_infer, stats.compute_output)
    assert sum(part.ns for part in parts) == stats.success.ns
    assert stats.compute_infer.ns > stats.compute_input.ns


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 1e9}, "temperature"),
        ({"temperature": "hot"}, "parameters.temperature"),
        ({"seed": -1}, "parameters.seed"),
        ({"tempratur": 1.0}, "parameters.tempratur"),
        ({"regex": "("}, "regex"),
        ({"json_schema": "{"}, "json_schema"),
    ],
)
async def test_wrong_parameters_are_named(
    rig: NodeRig, parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rig.stub.ModelInfer(request("Hi", **parameters))
    error = error_from_rpc(failed.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.field is not None
    assert error.field.removeprefix("parameters.") == field.removeprefix("parameters.")


async def test_a_prompt_longer_than_the_context_says_both_figures(rig: NodeRig) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="2047") as failed:
        await rig.stub.ModelInfer(request("word " * 20_000))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
