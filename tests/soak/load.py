"""Mixed callers: every kind of request, some cut short, and what each answer must be.

A caller checks its answer to the bit against what the same request gave alone, so that mixed-up
rows, slots or streams show. Which requests come is decided by a seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np

from mesh.pb import inference_pb2 as oip
from mesh.pb import inference_pb2_grpc

TIMEOUT_S = 60.0
SENTENCES = (
    "a cat",
    "a dog sat on the mat",
    "the sky is blue today",
    "one two three four five six",
)
PROMPTS = ("Once upon a time", "The capital of France is", "Water is made of", "1 2 3 4")
REFUSALS = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED})
"""What an overloaded server may say; anything else is a failure."""
WRONG = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
TOO_MANY = 429


@dataclass
class Load:
    """Callers of one mesh; `outcomes` counts what they met."""

    edge: str
    outcomes: Counter[str] = field(default_factory=Counter)
    _alone: dict[str, Any] = field(default_factory=dict)

    async def run(self, requests: int, *, at_once: int, seed: int) -> None:
        """Sends so many; raises on the first wrong or failed answer."""
        channel = grpc.aio.insecure_channel(self.edge)
        limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
        http = httpx.AsyncClient(base_url=f"http://{self.edge}", timeout=TIMEOUT_S, limits=limits)
        async with channel, http:
            callers = Callers(channel, http, self.outcomes, self._alone)
            if not self._alone:
                await callers.learn()
            dice = random.Random(seed)
            names = dice.choices([*callers.kinds], [*callers.weights], k=requests)
            waiting = iter(enumerate(names))

            async def work() -> None:
                for number, name in waiting:
                    await callers.kinds[name](random.Random(seed * 1_000_003 + number))
                    self.outcomes[name] += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())


class Callers:
    """One coroutine per kind of request."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        http: httpx.AsyncClient,
        outcomes: Counter[str],
        alone: dict[str, Any],
    ) -> None:
        self._stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._http = http
        self._outcomes = outcomes
        self._alone = alone
        weighted: Mapping[Callable[[random.Random], Awaitable[None]], int] = {
            self._echo_grpc: 40,
            self._echo_rest: 20,
            self._embed: 20,
            self._wrong: 8,
            self._generate: 6,
            self._leave_early: 3,
            self._give_up: 3,
        }
        self.kinds = {kind.__name__.lstrip("_"): kind for kind in weighted}
        self.weights = tuple(weighted.values())

    async def learn(self) -> None:
        """Notes what each request gives when it is alone."""
        for sentence in SENTENCES:
            answer = await self._stub.ModelInfer(_sentence(sentence), timeout=TIMEOUT_S)
            self._alone[sentence] = answer.raw_output_contents[0]
        for prompt in PROMPTS:
            reply = await self._http.post("/v2/models/smollm2/generate", json=_prompt(prompt))
            self._alone[prompt] = reply.json()["text_output"]

    async def _echo_grpc(self, dice: random.Random) -> None:
        request = oip.ModelInferRequest(model_name="identity", id=str(dice.random()))
        values = np.frombuffer(dice.randbytes(8 * dice.randint(0, 64)), np.int64)
        request.inputs.add(name="x", datatype="INT64", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
        answer = await self._tried(self._stub.ModelInfer(request, timeout=TIMEOUT_S))
        if answer is not None:
            assert answer.id == request.id
            assert answer.raw_output_contents[0] == values.tobytes()

    async def _echo_rest(self, dice: random.Random) -> None:
        data = [dice.randint(-100, 100) for _ in range(dice.randint(1, 20))]
        tensor = {"name": "y", "datatype": "INT32", "shape": [len(data)], "data": data}
        body = {"id": str(dice.random()), "inputs": [tensor]}
        reply = await self._http.post("/v2/models/identity/infer", json=body)
        assert reply.json()["id"] == body["id"], reply.text
        assert reply.json()["outputs"][0]["data"] == data

    async def _embed(self, dice: random.Random) -> None:
        sentence = dice.choice(SENTENCES)
        call = self._stub.ModelInfer(_sentence(sentence), timeout=TIMEOUT_S)
        answer = await self._tried(call)
        if answer is not None:
            assert answer.raw_output_contents[0] == self._alone[sentence]

    async def _generate(self, dice: random.Random) -> None:
        prompt = dice.choice(PROMPTS)
        reply = await self._http.post("/v2/models/smollm2/generate", json=_prompt(prompt))
        if reply.status_code == TOO_MANY:
            self._outcomes["refused"] += 1
            return
        assert reply.json()["text_output"] == self._alone[prompt], reply.text

    async def _leave_early(self, dice: random.Random) -> None:
        """Reads a piece or two of a stream, and hangs up."""
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "Count to one thousand."}],
            "max_tokens": 200,
            "stream": True,
        }
        left = dice.randint(1, 4)
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code == TOO_MANY:
                self._outcomes["refused"] += 1
                return
            assert reply.is_success, reply.status_code
            async with aclosing(reply.aiter_lines()) as lines:
                async for line in lines:
                    left -= line.startswith("data:")
                    if not left:
                        return

    async def _give_up(self, dice: random.Random) -> None:
        """Cancels a call, or gives it too little time."""
        request = _sentence(" ".join(dice.choices(SENTENCES, k=20)))
        call = self._stub.ModelInfer(request, timeout=dice.choice((0.001, 0.02, TIMEOUT_S)))
        await asyncio.sleep(dice.random() * 0.02)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return
        except grpc.aio.AioRpcError as error:
            expect(error, *REFUSALS, grpc.StatusCode.CANCELLED)

    async def _wrong(self, dice: random.Random) -> None:
        """Asks for what there is not, or sends what cannot be."""
        request = _sentence("x")
        request.model_name = dice.choice(("nope", "minilm@9", "minilm"))
        if request.model_name == "minilm":
            request.inputs[0].datatype = dice.choice(("FP32", "STRING"))
        try:
            await self._stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            expect(error, *REFUSALS, *WRONG)
        else:
            raise AssertionError(f"{request.model_name} took what it cannot take")

    async def _tried(self, call: Any) -> Any:
        """The answer; None where the server was too busy and said so."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            expect(error, *REFUSALS)
            self._outcomes["refused"] += 1
            return None


def expect(error: grpc.aio.AioRpcError, *codes: grpc.StatusCode) -> None:
    """Fails on any other code."""
    if error.code() not in codes:
        raise error


def _sentence(text: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="minilm")
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.inputs[0].contents.bytes_contents.append(text.encode())
    return request


def _prompt(text: str) -> dict[str, Any]:
    return {"text_input": text, "max_tokens": 6, "temperature": 0}
