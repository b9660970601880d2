"""Every datatype and shape over REST, as JSON and in binary both ways, plain and compressed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import tritonclient.http.aio as triton

from mesh.server import MAX_MESSAGE_BYTES
from mesh.tensor import DATATYPES
from tests.integration.conformance_table import CASES, VECTORS, Case

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v2/models/identity/infer"
JSON_CASES = [case for case in CASES if case.is_json]
NOT_JSON = [case for case in CASES if not case.is_json]


def tensor_of(name: str, case: Case, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput(name, list(case.shape), case.datatype)
    return tensor.set_data_from_numpy(case.array, binary_data=binary)


def document(case: Case, name: str = "x", *, nested: bool = False) -> dict[str, Any]:
    values = [each.decode() for each in case.values] if case.datatype == "BYTES" else case.values
    if case.datatype == "BF16":
        values = [float(each) for each in values]
    data = fold(values, case.shape) if nested else values
    return {"name": name, "datatype": case.datatype, "shape": list(case.shape), "data": data}


def fold(values: Sequence[Any], shape: tuple[int, ...]) -> list[Any]:
    """The flat list, nested as the shape says."""
    if len(shape) <= 1:
        return list(values)
    step = len(values) // max(1, shape[0])
    return [fold(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def binary_output(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    return output, answer.content[length:]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_binary_tensors_come_back_to_the_bit(rest, case: Case) -> None:
    result = await rest.infer("identity", [tensor_of("x", case)], request_id="r-1")
    output = result.get_output("x")
    assert (output["datatype"], output["shape"]) == (case.datatype, list(case.shape))
    assert output["parameters"] == {"binary_data_size": len(case.raw)}
    assert result._buffer == case.raw
    assert result.as_numpy("x").shape == case.shape
    assert result.get_response()["id"] == "r-1"


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("case", JSON_CASES, ids=str)
async def test_json_goes_in_flat_or_nested_and_comes_out_as_it_was(http, case, nested) -> None:
    asked = document(case, nested=nested)
    answer = await http.post(PATH, json={"inputs": [asked]})
    assert answer.status_code == 200, answer.text
    assert "inference-header-content-length" not in answer.headers
    assert answer.json()["outputs"] == [document(case)]


@pytest.mark.parametrize("case", JSON_CASES, ids=str)
async def test_json_in_and_binary_out_are_the_same_tensor(http, case: Case) -> None:
    body = {"inputs": [document(case)], "parameters": {"binary_data_output": True}}
    output, blob = binary_output(await http.post(PATH, json=body))
    assert output["parameters"] == {"binary_data_size": len(case.raw)}
    assert blob == case.raw


@pytest.mark.parametrize("case", JSON_CASES, ids=str)
async def test_binary_in_and_json_out_are_the_same_tensor(rest, case: Case) -> None:
    outputs = [triton.InferRequestedOutput("x", binary_data=False)]
    result = await rest.infer("identity", [tensor_of("x", case)], outputs=outputs)
    assert result.get_output("x") == document(case)


@pytest.mark.parametrize("case", NOT_JSON, ids=str)
async def test_bytes_that_are_no_text_need_the_binary_form(rest, case: Case) -> None:
    outputs = [triton.InferRequestedOutput("x", binary_data=False)]
    with pytest.raises(Exception, match=r"outputs\.x.*not UTF-8") as caught:
        await rest.infer("identity", [tensor_of("x", case)], outputs=outputs)
    assert caught.value.status() == "400"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("case", VECTORS, ids=str)
async def test_compression_goes_both_ways(rest, case: Case, algorithm: str) -> None:
    result = await rest.infer(
        "identity",
        [tensor_of("x", case)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result._buffer == case.raw


async def test_forms_mix_within_a_request_and_within_an_answer(rest) -> None:
    cases = {case.datatype: case for case in VECTORS if case.is_json}
    in_json = {"INT8", "FP64", "BOOL"}
    inputs = [tensor_of(n, case, binary=n not in in_json) for n, case in cases.items()]
    outputs = [triton.InferRequestedOutput(n, binary_data=n in in_json) for n in reversed(cases)]
    result = await rest.infer("identity", inputs, outputs=outputs)
    assert [each["name"] for each in result.get_response()["outputs"]] == list(reversed(cases))
    for name, case in cases.items():
        if name in in_json:
            assert result.as_numpy(name).tobytes() == case.raw
        else:
            assert result.get_output(name) == document(case, name)


@pytest.mark.parametrize(
    ("request_level", "output_level", "is_binary"),
    [(None, None, False), (True, None, True), (False, None, False), (True, False, False),
     (False, True, True), (None, True, True)],
)  # fmt: skip
async def test_the_output_decides_before_the_request(
    http, request_level: bool | None, output_level: bool | None, is_binary: bool
) -> None:
    output: dict[str, Any] = {"name": "x"}
    if output_level is not None:
        output["parameters"] = {"binary_data": output_level}
    body: dict[str, Any] = {"inputs": [document(VECTORS[0])], "outputs": [output]}
    if request_level is not None:
        body["parameters"] = {"binary_data_output": request_level}
    answer = await http.post(PATH, json=body)
    assert ("inference-header-content-length" in answer.headers) is is_binary


async def test_an_output_that_is_not_there_is_named(http) -> None:
    body = {"inputs": [document(VECTORS[0])], "outputs": [{"name": "y"}]}
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("outputs.y: ")


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BOOL", "BYTES"}))
async def test_numbers_that_do_not_fit_are_refused_by_name(http, datatype: str) -> None:
    tensor = {"name": "x", "datatype": datatype, "shape": [1], "data": [2**2000]}
    answer = await http.post(PATH, json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("inputs.x: ")


async def test_what_grows_too_large_on_the_way_to_a_node_is_413(http) -> None:
    count = MAX_MESSAGE_BYTES // 8
    zeros = ",".join("0" * count)  # two bytes each, and eight as FP64
    tensor = f'{{"name": "x", "datatype": "FP64", "shape": [{count}], "data": [{zeros}]}}'
    answer = await http.post(PATH, content=f'{{"inputs": [{tensor}]}}')
    assert answer.status_code == 413
    assert "model 'identity'" in answer.json()["error"]
