"""The choices of one request: they begin together, or not at all."""

import asyncio

import pytest

from mesh.errors import InvalidArgument
from mesh.pb.node_pb2 import GenerateRequest, GenerateResponse, Started
from mesh.reference import ModelReference
from services.gateway.caller import Caller
from services.gateway.directory import Directory
from services.gateway.generation import Choice, TextGeneration
from services.gateway.node_client import Hop


class BusyNode:
    """A node that refuses "no", begins with "now" at once, and has no slot for others."""

    def __init__(self) -> None:
        self.waiting = 0
        self.under_way = 0
        self.is_full = asyncio.Event()

    async def generate(self, request: GenerateRequest, hop: Hop):
        del hop
        self.under_way += 1
        try:
            if request.text == "no":
                await self.is_full.wait()
                raise InvalidArgument("the prompt is too long", field="prompt")
            if request.text != "now":
                self.waiting += 1
                if self.waiting == 2:
                    self.is_full.set()
                await asyncio.Event().wait()
            yield GenerateResponse(started=Started(node="n", model_version="1"))
        finally:
            self.under_way -= 1


def begin(node: BusyNode, *texts: str):
    generation = TextGeneration(Directory(), node, timeout_s=9, attempts=0)
    requests = [GenerateRequest(text=text) for text in texts]
    return generation.begin(ModelReference("m"), requests, Caller(), None)


def test_a_refused_choice_is_told_while_the_others_wait_for_a_slot() -> None:
    async def run() -> None:
        node = BusyNode()
        with pytest.raises(InvalidArgument, match="too long"):
            async with asyncio.timeout(5):
                await begin(node, "now", "later", "no", "later")
        assert node.under_way == 0

    asyncio.run(run())


def test_a_caller_that_leaves_while_choices_wait_takes_them_along() -> None:
    async def run() -> None:
        node = BusyNode()
        beginning = asyncio.create_task(begin(node, "now", "later", "later"))
        await node.is_full.wait()
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert node.under_way == 0

    asyncio.run(run())


def test_choices_keep_the_order_of_their_requests() -> None:
    async def run() -> tuple[Choice, ...]:
        return await begin(BusyNode(), "now", "now", "now")

    assert [choice.index for choice in asyncio.run(run())] == [0, 1, 2]
