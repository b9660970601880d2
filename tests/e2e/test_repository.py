"""Loading, unloading and settings with unmodified clients, on every node of the mesh."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from mesh.pb import inference_pb2 as oip
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.harness import Mesh

MODEL = "identity"


@pytest.fixture
def client(mesh: Mesh) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(mesh.edge) as opened:
        yield opened
        opened.load_model(MODEL)


def infer(client: triton.InferenceServerClient) -> np.ndarray:
    tensor = triton.InferInput("x", [2], "FP32")
    tensor.set_data_from_numpy(np.array([1, 2], np.float32))
    return client.infer(MODEL, [tensor]).as_numpy("x")


def entry(client: triton.InferenceServerClient) -> oip.RepositoryIndexResponse.ModelIndex:
    (found,) = [each for each in client.get_model_repository_index().models if each.name == MODEL]
    return found


def test_a_model_leaves_every_node_and_comes_back(client: triton.InferenceServerClient) -> None:
    assert entry(client).state == "READY"
    client.unload_model(MODEL)
    assert not client.is_model_ready(MODEL)
    gone = entry(client)
    assert gone.state in ("UNAVAILABLE", "UNLOADING")
    assert gone.reason.count("unloaded by hand") + gone.reason.count("UNLOADING") == 2
    with pytest.raises(InferenceServerException) as caught:
        infer(client)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert client.is_model_ready("minilm")
    client.load_model(MODEL)
    assert infer(client).tolist() == [1, 2]
    back = entry(client)
    assert (back.state, back.reason) == ("READY", "")


def test_rest_answers_with_each_nodes_state(
    client: triton.InferenceServerClient, mesh: Mesh, http: httpx.Client
) -> None:
    with triton_http.InferenceServerClient(mesh.edge) as rest:
        rest.unload_model(MODEL)
        assert not rest.is_model_ready(MODEL)
        rest.load_model(MODEL)
        assert rest.is_model_ready(MODEL)
    answer = http.post(f"/v2/repository/models/{MODEL}/load", json={})
    states = answer.json()["nodes"]
    assert len({each["node"] for each in states}) == 2
    assert {each["state"] for each in states} == {"READY"}


def test_grpc_tells_each_nodes_state_in_its_trailer(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.edge) as channel:
        load = GRPCInferenceServiceStub(channel).RepositoryModelLoad
        _, call = load.with_call(oip.RepositoryModelLoadRequest(model_name=MODEL), timeout=60)
        told = dict(call.trailing_metadata())["x-ringmesh-nodes"].split(", ")
    assert sorted(told) == [
        f"{node} {MODEL}@1 READY" for node in sorted(mesh.serving_nodes(f"{MODEL}@1"))
    ]


def test_rest_loads_no_configuration_either(mesh: Mesh) -> None:
    with triton_http.InferenceServerClient(mesh.edge) as rest:
        with pytest.raises(InferenceServerException, match=r"parameters\.config") as caught:
            rest.load_model(MODEL, config="{}")
        assert caught.value.status() == "501"
        index = {each["name"]: each["state"] for each in rest.get_model_repository_index()}
        assert index[MODEL] == "READY"


@pytest.mark.parametrize(
    ("model", "options", "status", "named"),
    [
        ("nope", {}, "StatusCode.NOT_FOUND", "nope"),
        (f"{MODEL}@9", {}, "StatusCode.NOT_FOUND", f"{MODEL}@9"),
        (MODEL, {"config": "{}"}, "StatusCode.UNIMPLEMENTED", "parameters.config"),
        (
            MODEL,
            {"config": "{}", "files": {"file:1/model.onnx": b"x"}},
            "StatusCode.UNIMPLEMENTED",
            "parameters",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why(client, model, options, status, named) -> None:
    with pytest.raises(InferenceServerException, match=named) as caught:
        client.load_model(model, **options)
    assert caught.value.status() == status


def test_trace_settings_apply_live(client: triton.InferenceServerClient, http) -> None:
    assert client.get_trace_settings(as_json=True)["settings"]["trace_rate"]["value"] == ["1"]
    client.update_trace_settings(settings={"trace_rate": "4"})
    try:
        shown = http.get("/v2/trace/setting").json()
        assert (shown["trace_level"], shown["trace_rate"]) == (["TIMESTAMPS"], "4")
        asked = http.request("GET", "/v2/trace/setting", json={"trace_level": ["OFF"]})
        assert asked.json() == shown
        assert http.post("/v2/trace/setting", json={"trace_level": ["OFF"]}).json()[
            "trace_level"
        ] == ["OFF"]
    finally:
        client.update_trace_settings(settings={"trace_level": "TIMESTAMPS", "trace_rate": None})
    assert http.get("/v2/trace/setting").json()["trace_rate"] == "1"
    with pytest.raises(InferenceServerException, match="trace_file"):
        client.update_trace_settings(settings={"trace_file": "here"})


def test_settings_over_rest_by_the_client_library(mesh: Mesh) -> None:
    with triton_http.InferenceServerClient(mesh.edge) as rest:
        assert rest.get_trace_settings(model_name="minilm") == rest.get_trace_settings()
        try:
            shown = rest.update_trace_settings(settings={"trace_rate": "8"})
            assert shown["trace_rate"] == rest.get_trace_settings()["trace_rate"] == "8"
            assert rest.update_log_settings(settings={"log_info": False})["log_info"] is False
            assert rest.get_log_settings()["log_info"] is False
        finally:
            rest.update_trace_settings(settings={"trace_rate": None})
            rest.update_log_settings(settings={"log_info": True})
        with pytest.raises(InferenceServerException, match="all models together") as caught:
            rest.update_trace_settings(model_name="minilm", settings={"trace_rate": "8"})
        assert caught.value.status() == "501"


def test_log_settings_apply_live(client: triton.InferenceServerClient, http) -> None:
    assert http.get("/v2/logging").json()["log_info"] is True
    client.update_log_settings(settings={"log_info": False})
    try:
        shown = client.get_log_settings(as_json=True)["settings"]
        assert "log_info" not in shown or not shown["log_info"].get("bool_param")
        assert shown["log_warning"]["bool_param"] is True
        asked = http.request("GET", "/v2/logging", json={"log_warning": False})
        assert asked.json()["log_warning"] is True
    finally:
        client.update_log_settings(settings={"log_info": True})
    assert http.get("/v2/logging").json()["log_info"] is True
