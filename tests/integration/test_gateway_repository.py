"""The repository index through the gateway: what each node says of each version."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio
import tritonclient.grpc.aio as triton

from mesh.pb import node_pb2 as pb
from tests.integration.gateway_rig import Rig, make_watch, open_rig


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as opened:
        opened.watch.now = make_watch(ports=[opened.node_port]).now
        yield opened


async def test_the_index_says_over_rest_how_each_node_does(rig: Rig) -> None:
    rig.node.statuses = [
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
    async with httpx.AsyncClient(base_url=f"http://{rig.http}") as http:
        found = (await http.post("/v2/repository/index")).json()
    entries = {each["name"]: each for each in found}
    node = str(rig.node_port)
    (ready,) = entries["minilm"]["nodes"]
    assert (ready["state"], ready["backend"], ready["memory_bytes"]) == ("READY", "onnxruntime", 7)
    (failed,) = entries["smollm2"]["nodes"]
    assert (failed["state"], failed["reason"]) == ("UNAVAILABLE", "no room")
    (left,) = entries["identity"]["nodes"]
    assert left["node"].endswith(node)
    assert (left["state"], entries["identity"]["state"]) == ("UNLOADED", "UNAVAILABLE")
    assert entries["smollm2"]["reason"].endswith("UNAVAILABLE: no room")


async def test_over_grpc_the_index_is_the_protocols(rig: Rig) -> None:
    rig.node.statuses = [
        pb.ModelStatus(model="minilm", version="1", state=pb.MODEL_STATE_DRAINING, reason="ending")
    ]
    async with triton.InferenceServerClient(rig.grpc) as client:
        index = await client.get_model_repository_index()
    (entry,) = [each for each in index.models if each.name == "minilm"]
    assert entry.state == "UNLOADING"
    assert entry.reason.endswith("UNLOADING: ending")
