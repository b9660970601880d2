"""A crowd of callers who ask different things of different models at once, made from a seed.

Each knows what it got when it asked alone, answer or refusal, and has to get just that in the crowd
too, whoever it shares a batch with. Some are in a hurry and some leave before they are answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc
import httpx
import numpy as np

from mesh.pb import inference_pb2 as oip

WORDS = ("ring", "mesh", "model", "river", "of", "the", "small", "green", "answers", "waits")
Ask = Callable[[np.random.Generator], oip.ModelInferRequest]


class Fate(Enum):
    """What a caller does after it has asked."""

    STAYS = "stays"
    HURRIES = "hurries"
    LEAVES = "leaves"


@dataclass(frozen=True)
class Caller:
    """A request and its caller's patience: a deadline, or how many turns of the loop it stays."""

    request: oip.ModelInferRequest
    fate: Fate
    timeout_s: float = 60.0
    turns: int = 0


@dataclass(frozen=True)
class Outcome:
    """An answer without its id, or a status."""

    response: bytes = b""
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""


Lane = Callable[[oip.ModelInferRequest, float], Awaitable[Outcome]]
DTYPES: Mapping[str, str] = {"FP32": "<f4", "INT64": "<i8", "UINT8": "|u1"}
STATUS_OF_HTTP = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
GONE = Outcome(code=grpc.StatusCode.CANCELLED)


def make_crowd(asks: Sequence[Ask], count: int, seed: int) -> list[Caller]:
    """So many callers; one in five does not stay."""
    rng = np.random.default_rng(seed)
    fates = [Fate.STAYS] * 8 + [Fate.HURRIES, Fate.LEAVES]
    crowd = []
    for number in range(count):
        request = asks[int(rng.integers(len(asks)))](rng)
        request.id = f"caller-{number}"
        fate = fates[int(rng.integers(len(fates)))]
        timeout_s = float(rng.uniform(0.001, 0.2)) if fate is Fate.HURRIES else 60.0
        crowd.append(Caller(request, fate, timeout_s, int(rng.integers(200))))
    return crowd


def grpc_lane(infer: Any) -> Lane:
    """By gRPC, with this `ModelInfer`."""

    async def ask(request: oip.ModelInferRequest, timeout_s: float) -> Outcome:
        try:
            response = await infer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return Outcome(code=error.code(), details=error.details() or "")
        assert response.id == request.id
        assert response.model_name == request.model_name
        response.id = ""
        return Outcome(response.SerializeToString(deterministic=True))

    return ask


def rest_lane(client: httpx.AsyncClient) -> Lane:
    """By REST, in JSON; what JSON cannot say is a caller's own affair."""

    async def ask(request: oip.ModelInferRequest, timeout_s: float) -> Outcome:
        path, body = f"/v2/models/{request.model_name}/infer", as_json(request)
        try:
            response = await client.post(path, json=body, timeout=timeout_s)
        except httpx.TimeoutException:
            return Outcome(code=LATE)
        answer = response.json()
        if response.status_code != httpx.codes.OK:
            return Outcome(code=STATUS_OF_HTTP[response.status_code], details=answer["error"])
        assert answer.pop("id") == request.id
        assert answer["model_name"] == request.model_name
        return Outcome(json.dumps(answer).encode())

    return ask


async def ask_alone(lane: Lane, caller: Caller) -> Outcome:
    """What the caller gets when nobody else asks and it waits for as long as that takes."""
    return await lane(caller.request, 60.0)


async def ask_in_crowd(lane: Lane, caller: Caller) -> Outcome:
    """What it gets among others; `GONE` if it has left before."""
    asking = asyncio.ensure_future(lane(caller.request, caller.timeout_s))
    if caller.fate is Fate.LEAVES:
        for _ in range(caller.turns):
            await asyncio.sleep(0)
        asking.cancel()
    try:
        return await asking
    except asyncio.CancelledError:
        return GONE


def check_outcome(caller: Caller, alone: Outcome, got: Outcome) -> None:
    """The same as alone, unless the caller itself has cut it short."""
    excuses = {Fate.HURRIES: got.code is LATE, Fate.LEAVES: got == GONE}
    assert got == alone or excuses.get(caller.fate, False), (caller.request.id, alone, got)


def check_statistics(counts: oip.ModelStatistics, crowd: Sequence[Caller], ok: int) -> None:
    """Nothing is counted twice or lost; `ok` callers have their answer."""
    stats = counts.inference_stats
    who_stay = sum(caller.fate is Fate.STAYS for caller in crowd)
    assert ok <= stats.success.count
    assert who_stay <= stats.success.count + stats.fail.count <= len(crowd)
    phases = (stats.compute_input, stats.queue, stats.compute_infer, stats.compute_output)
    assert all(phase.count == stats.success.count for phase in phases)
    assert sum(phase.ns for phase in phases) == stats.success.ns
    runs = [(batch.batch_size, batch.compute_infer.count) for batch in counts.batch_stats]
    assert sum(count for _, count in runs) == counts.execution_count
    # Rows of callers who left during a run are in the run, but not among the answered.
    assert sum(size * count for size, count in runs) >= counts.inference_count


def since(after: oip.ModelStatistics, before: oip.ModelStatistics) -> oip.ModelStatistics:
    """What has been added."""
    difference = oip.ModelStatistics()
    difference.CopyFrom(after)
    difference.inference_count -= before.inference_count
    difference.execution_count -= before.execution_count
    for field in oip.InferStatistics.DESCRIPTOR.fields_by_name:
        _reduce(getattr(difference.inference_stats, field), getattr(before.inference_stats, field))
    known = {batch.batch_size: batch for batch in before.batch_stats}
    for batch in difference.batch_stats:
        if batch.batch_size in known:
            _reduce(batch.compute_infer, known[batch.batch_size].compute_infer)
    return difference


def tensor(request: oip.ModelInferRequest, name: str, datatype: str, array: Any) -> None:
    """Adds an input, raw."""
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())


def want(request: oip.ModelInferRequest, rng: np.random.Generator, *names: str) -> None:
    """Asks for some of these outputs, in some order; or for none by name, which is all."""
    for name in rng.permutation(names)[: int(rng.integers(len(names) + 1))]:
        request.outputs.add(name=str(name))


def ask_identity(rng: np.random.Generator) -> oip.ModelInferRequest:
    """Tensors of many kinds, to be given back."""
    request = oip.ModelInferRequest(model_name="identity")
    names = [f"t{n}" for n in range(int(rng.integers(1, 4)))]
    for name in names:
        shape = rng.integers(0, 5, int(rng.integers(3)))
        values = rng.integers(0, 100, shape)
        datatype = str(rng.choice(list(DTYPES)))
        tensor(request, name, datatype, np.asarray(values).astype(DTYPES[datatype]))
    want(request, rng, *names)
    return request


def ask_minilm(rng: np.random.Generator) -> oip.ModelInferRequest:
    """Texts of different lengths."""
    request = oip.ModelInferRequest(model_name="minilm")
    texts = [
        " ".join(rng.choice(WORDS, int(rng.integers(0, 24))))
        for _ in range(int(rng.integers(1, 5)))
    ]
    field = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    field.contents.bytes_contents.extend(text.encode() for text in texts)
    return request


def ask_wrong_text(rng: np.random.Generator) -> oip.ModelInferRequest:
    """A text that is none, among others that are."""
    request = ask_minilm(rng)
    contents = request.inputs[0].contents.bytes_contents
    contents[int(rng.integers(len(contents)))] = b"\xff\xfe"
    return request


def ask_unknown_output(rng: np.random.Generator) -> oip.ModelInferRequest:
    """An output that there is not."""
    request = ask_identity(rng)
    request.outputs.add(name="nonsense")
    return request


def as_json(request: oip.ModelInferRequest) -> dict[str, Any]:
    """The same request in the protocol's JSON."""
    raw = list(request.raw_input_contents)
    inputs = []
    for each in request.inputs:
        texts = each.contents.bytes_contents
        values = (
            [text.decode() for text in texts]
            if each.datatype == "BYTES"
            else np.frombuffer(raw.pop(0), DTYPES[each.datatype]).tolist()
        )
        shape = list(each.shape)
        inputs.append(
            {"name": each.name, "datatype": each.datatype, "shape": shape, "data": values}
        )
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in request.parameters.items()
    }
    outputs = [{"name": output.name} for output in request.outputs]
    asked = {"outputs": outputs} if outputs else {}
    return {"id": request.id, "inputs": inputs, "parameters": parameters, **asked}


def is_text(request: oip.ModelInferRequest) -> bool:
    """Whether JSON can say it."""
    try:
        as_json(request)
    except UnicodeDecodeError:
        return False
    return True


def _reduce(duration: oip.StatisticDuration, by: oip.StatisticDuration) -> None:
    duration.count -= by.count
    duration.ns -= by.ns
