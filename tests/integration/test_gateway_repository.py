"""The repository index through the gateway: what each node says of each version."""

import pytest
import tritonclient.grpc.aio as triton

from mesh.pb import node_pb2 as pb
from tests.integration.gateway_rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_index_says_over_rest_how_each_node_does(gateway: Rig, http) -> None:
    gateway.node.statuses = [
        pb.ModelStatus(
            model="minilm",
            version="1",
            state=pb.MODEL_STATE_READY,
            backend="onnxruntime",
            memory_bytes=7,
        ),
        pb.ModelStatus(
            model="smollm2", version="1", state=pb.MODEL_STATE_UNAVAILABLE, reason="no room"
        ),
        pb.ModelStatus(
            model="identity", version="1", state=pb.MODEL_STATE_UNLOADED, reason="unloaded by hand"
        ),
    ]
    found = (await http.post("/v2/repository/index")).json()
    entries = {each["name"]: each for each in found}
    node = str(gateway.node_port)
    (ready,) = entries["minilm"]["nodes"]
    assert (ready["state"], ready["backend"], ready["memory_bytes"]) == ("READY", "onnxruntime", 7)
    (failed,) = entries["smollm2"]["nodes"]
    assert (failed["state"], failed["reason"]) == ("UNAVAILABLE", "no room")
    (left,) = entries["identity"]["nodes"]
    assert left["node"].endswith(node)
    assert (left["state"], entries["identity"]["state"]) == ("UNLOADED", "UNAVAILABLE")
    assert entries["smollm2"]["reason"].endswith("UNAVAILABLE: no room")


async def test_over_grpc_the_index_is_the_protocols(gateway: Rig) -> None:
    gateway.node.statuses = [
        pb.ModelStatus(model="minilm", version="1", state=pb.MODEL_STATE_DRAINING, reason="ending")
    ]
    async with triton.InferenceServerClient(gateway.grpc) as client:
        index = await client.get_model_repository_index()
    (entry,) = [each for each in index.models if each.name == "minilm"]
    assert entry.state == "UNLOADING"
    assert entry.reason.endswith("UNLOADING: ending")
