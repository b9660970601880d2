"""Every datatype and shape over gRPC, raw and typed, on the node itself and through the gateway."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from mesh.errors import InvalidArgument, error_from_rpc
from mesh.pb import inference_pb2 as oip
from mesh.tensor import DATATYPES
from tests.integration.conformance_table import CASES, NOT_FINITE, VECTORS, Case
from tests.integration.oip_rig import Lanes

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPED = [case for case in CASES if DATATYPES[case.datatype].contents_field]


def tensor_of(name: str, case: Case) -> triton.InferInput:
    tensor = triton.InferInput(name, list(case.shape), case.datatype)
    return tensor.set_data_from_numpy(case.array)


def typed_request(case: Case) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="identity", id="r-1")
    tensor = request.inputs.add(name="x", datatype=case.datatype, shape=case.shape)
    getattr(tensor.contents, DATATYPES[case.datatype].contents_field).extend(case.values)
    return request


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_raw_tensors_come_back_to_the_bit(client, case: Case) -> None:
    result = await client.infer("identity", [tensor_of("x", case)], request_id="r-1")
    response = result.get_response()
    (output,) = response.outputs
    assert (output.name, output.datatype, tuple(output.shape)) == ("x", case.datatype, case.shape)
    assert list(response.raw_output_contents) == [case.raw]
    assert result.as_numpy("x").shape == case.shape
    assert (response.id, response.model_name, response.model_version) == ("r-1", "identity", "1")


@pytest.mark.parametrize("case", TYPED, ids=str)
async def test_typed_tensors_are_answered_raw(stub, case: Case) -> None:
    response = await stub.ModelInfer(typed_request(case))
    (output,) = response.outputs
    assert (output.datatype, tuple(output.shape)) == (case.datatype, case.shape)
    assert not output.HasField("contents")
    assert list(response.raw_output_contents) == [case.raw]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
async def test_sixteen_bit_floats_have_no_typed_form(stub, datatype: str) -> None:
    request = oip.ModelInferRequest(model_name="identity")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1])
    tensor.contents.fp32_contents.append(1)
    with pytest.raises(grpc.aio.AioRpcError, match="raw_input_contents") as caught:
        await stub.ModelInfer(request)
    error = error_from_rpc(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.field == "inputs.x"


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
async def test_numbers_that_are_not_finite_pass(client, datatype: str) -> None:
    array = np.array(NOT_FINITE, dtype=DATATYPES[datatype].dtype)
    tensor = triton.InferInput("x", [3], datatype).set_data_from_numpy(array)
    result = await client.infer("identity", [tensor])
    assert result.get_response().raw_output_contents[0] == array.tobytes()


async def test_all_datatypes_travel_in_one_request(client) -> None:
    inputs = [tensor_of(case.datatype, case) for case in VECTORS]
    response = (await client.infer("identity", inputs)).get_response()
    assert [each.name for each in response.outputs] == list(DATATYPES)
    assert list(response.raw_output_contents) == [case.raw for case in VECTORS]


async def test_outputs_are_those_that_were_asked_for_in_their_order(client) -> None:
    inputs = [tensor_of(case.datatype, case) for case in VECTORS]
    raws = {case.datatype: case.raw for case in VECTORS}
    wanted = ["BYTES", "BOOL", "BF16"]
    outputs = [triton.InferRequestedOutput(name) for name in wanted]
    response = (await client.infer("identity", inputs, outputs=outputs)).get_response()
    assert [each.name for each in response.outputs] == wanted
    assert list(response.raw_output_contents) == [raws[name] for name in wanted]


async def test_a_stream_brings_every_datatype_in_order(client) -> None:
    async def feed():
        for case in VECTORS:
            inputs = [tensor_of("x", case)]
            yield {"model_name": "identity", "inputs": inputs, "request_id": case.datatype}

    answers = [result.get_response() async for result, _ in client.stream_infer(feed())]
    assert [each.id for each in answers] == list(DATATYPES)
    assert [each.raw_output_contents[0] for each in answers] == [case.raw for case in VECTORS]
    assert all(each.parameters["triton_final_response"].bool_param for each in answers)


async def test_an_output_that_is_not_there_is_named(stub) -> None:
    request = typed_request(VECTORS[0])
    request.outputs.add(name="y")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(request)
    error = error_from_rpc(caught.value)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "outputs.y")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_calls_are_accepted_by_the_gateway(lanes: Lanes, algorithm: str) -> None:
    async with triton.InferenceServerClient(lanes.gateway) as client:
        for case in VECTORS:
            result = await client.infer(
                "identity", [tensor_of("x", case)], compression_algorithm=algorithm
            )
            assert result.get_response().raw_output_contents[0] == case.raw
