"""Language models in the Open Inference Protocol: a generation as one response, or in pieces.

The generation is the node's own `Generate`, not the protocol's stream: only that says which tokens
were delivered, so that another node can go on where one has died.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace

from mesh.pb import inference_pb2 as oip
from mesh.pb.node_pb2 import FINISH_REASON_LENGTH, Finished, GenerateRequest
from mesh.reference import ModelReference
from mesh.request_parameters import requested_sequence
from mesh.scheduling_parameters import requested_timeout_s
from mesh.text_inference import Facts, TextRequest, TextResponses, read_text_request
from services.gateway.affinity import affinity_key, text_head
from services.gateway.caller import Caller
from services.gateway.generation import Choice, Events, TextGeneration, read_all
from services.gateway.node_client import RECEIPT_HEADERS, Answer

Responses = AsyncGenerator[oip.ModelInferResponse, None]


@dataclass(frozen=True, slots=True)
class BegunText:
    """A generation under way: who makes it, and its responses, which must be read or closed."""

    receipt: Mapping[str, str]
    responses: Responses


@dataclass(frozen=True, slots=True)
class TextInference:
    """Answers requests that mean a language model."""

    generation: TextGeneration

    async def begin(
        self, reference: ModelReference, request: oip.ModelInferRequest, caller: Caller
    ) -> BegunText:
        """Begins the generation; whatever would refuse it has done so then."""
        choice = await self._generate(reference, request, caller)
        responses = _responses(choice.events, _maker(choice, reference, request))
        return BegunText(_receipt(choice), responses)

    async def answer(
        self, reference: ModelReference, request: oip.ModelInferRequest, caller: Caller
    ) -> Answer[oip.ModelInferResponse]:
        """The whole text, which survives the death of a node as its pieces do."""
        choice = await self._generate(reference, request, caller)
        (finish,) = await read_all([choice])
        made = _maker(choice, reference, request)
        return Answer(made.whole(finish.text, _facts(finish.finished)), _receipt(choice))

    async def _generate(
        self, reference: ModelReference, request: oip.ModelInferRequest, caller: Caller
    ) -> Choice:
        asked = read_text_request(request)
        timeout_s = requested_timeout_s(request.parameters, caller.timeout_s)
        sequence = requested_sequence(request.parameters)
        key = affinity_key(sequence=sequence, prompt_head=text_head(asked.prompt))
        generate = make_generate_request(reference, asked, request.id)
        patient = replace(caller, timeout_s=timeout_s)
        (choice,) = await self.generation.begin(reference, [generate], patient, key)
        return choice


def _receipt(choice: Choice) -> Mapping[str, str]:
    values = (choice.started.node, choice.started.model_version)
    return dict(zip(RECEIPT_HEADERS, values, strict=True))


def _maker(
    choice: Choice, reference: ModelReference, request: oip.ModelInferRequest
) -> TextResponses:
    return TextResponses(request, reference.name, choice.started.model_version)


async def _responses(events: Events, made: TextResponses) -> Responses:
    """A response per piece of the text, and the final one, which says what it took."""
    async with aclosing(events):
        async for event in events:
            if event.HasField("finished"):
                yield made.final(_facts(event.finished))
            elif event.delta.text:
                yield made.piece(event.delta.text)


def make_generate_request(
    reference: ModelReference, asked: TextRequest, request_id: str
) -> GenerateRequest:
    """The generation that a text request means."""
    request = GenerateRequest(
        model_name=reference.name,
        model_version="" if reference.version is None else str(reference.version),
        request_id=request_id,
        text=asked.prompt,
        max_tokens=asked.max_tokens,
        stop=asked.stop,
        ignore_eos=asked.ignore_eos,
        priority=asked.priority,
    )
    for name, value in asked.sampling.items():
        setattr(request.sampling, name, value)
    for kind, form in asked.form.items():
        setattr(request, kind, form)
    return request


def _facts(finished: Finished) -> Facts:
    is_length = finished.reason == FINISH_REASON_LENGTH
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "finish_reason": "length" if is_length else "stop",
    }
