"""A node with more to do than it can: who is refused, who is told to come back, who is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from mesh.errors import QueueFull, error_from_rpc
from mesh.local.demo_models import DemoModels
from mesh.manifest import Manifest
from mesh.pb import inference_pb2 as oip
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_model import TextModel
from tests.integration.node_rig import NodeRig, open_node, spec_of
from tests.integration.tensor_place import make_place

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

MINILM = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")
QUEUE_ROWS = 300
LONG = "long " * 300


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest_asyncio.fixture(loop_scope="module")
async def model(demo_models: DemoModels, cache_dir: Path) -> TextModel:
    place = make_place(cache_dir, max_queue_rows=QUEUE_ROWS, threads=1)
    return await open_sentence_encoder(demo_models.minilm_folder, spec_of(MINILM), place)


@pytest_asyncio.fixture(loop_scope="module")
async def rig(model: TextModel) -> AsyncIterator[NodeRig]:
    async with open_node([model]) as opened:
        yield opened


def embed(rig: NodeRig, texts: Sequence[str], **options: Any) -> Any:
    asked = oip.ModelInferRequest(model_name="minilm")
    tensor = asked.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    return rig.stub.ModelInfer(asked, **options)


async def queued(model: TextModel, *, rows: int) -> None:
    async with asyncio.timeout(20):
        while f"waiting={rows} " not in repr(model):
            await asyncio.sleep(0.001)


async def test_a_full_queue_says_when_to_come_back_and_recovers(rig: NodeRig) -> None:
    many = [f"sentence number {number} of a crowd" for number in range(QUEUE_ROWS)]
    calls = (asyncio.ensure_future(embed(rig, many)) for _ in range(4))
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error_from_rpc(r) for r in results if isinstance(r, grpc.aio.AioRpcError)]
    answered = [r.raw_output_contents[0] for r in results if not isinstance(r, Exception)]
    assert len(refused) + len(answered) == 4
    assert refused
    assert all(isinstance(error, QueueFull) for error in refused)
    assert all(0 < (error.retry_after_s or 0) <= 60 for error in refused)
    assert set(answered) == {(await embed(rig, many)).raw_output_contents[0]}


async def test_a_deadline_is_kept_and_those_who_leave_make_room(
    rig: NodeRig, model: TextModel
) -> None:
    crowd = embed(rig, [LONG] * 200)
    await queued(model, rows=192)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await embed(rig, [LONG], timeout=0.3)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not crowd.done()
    crowd.cancel()
    await queued(model, rows=0)
    assert np.frombuffer((await embed(rig, ["short"])).raw_output_contents[0]).size


async def test_a_model_that_goes_tells_those_who_wait(rig: NodeRig, model: TextModel) -> None:
    waiting = embed(rig, [LONG] * 200)
    await queued(model, rows=192)
    await model.close()
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await waiting
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE
