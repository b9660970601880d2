"""POST /v1/embeddings: texts in, vectors out, through the protocol of tensor models.

The node's model takes `text` (BYTES [-1]) and gives `embedding` (FP32 [-1, n]). A vector's bytes
are what OpenAI's base64 form encodes, so in that form nothing is converted here.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from mesh.deadline import hop_timeout_s
from mesh.errors import Internal
from mesh.pb import inference_pb2 as oip
from mesh.tensor import json_to_raw
from services.gateway.affinity import affinity_key
from services.gateway.caller import Caller
from services.gateway.directory import parse_reference, require_task
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.http.exchange import Exchange
from services.gateway.http.json import json_response
from services.gateway.node_client import Answer, Hop, NodeClient
from services.gateway.openai.error import EMBEDDING_FIELDS, in_words_of, read_request
from services.gateway.openai.refusal import check_embedding
from services.gateway.openai.request import EmbeddingRequest
from services.gateway.openai.usage import Usage, record_request, record_usage

INPUT = "text"
OUTPUT = "embedding"

TOKENS_PARAMETER = "prompt_tokens"
"""The parameter of a node's response that counts the tokens of its inputs."""


@dataclass(frozen=True, slots=True)
class EmbeddingRest:
    """The route that embeds texts."""

    watch: DirectoryWatch
    nodes: NodeClient
    timeout_s: float

    async def embeddings(self, exchange: Exchange) -> Response:
        """One vector for each text."""
        request = read_request(EmbeddingRequest, exchange.body)
        check_embedding(request)
        record_request(exchange.span, "embeddings", request.model)
        answer = await self._ask(request, exchange.caller)
        usage = _usage(answer.message.parameters)
        record_usage(exchange.span, usage)
        body = {
            "object": "list",
            "data": list(_items(answer.message, request.encoding_format)),
            "model": request.model,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        }
        return json_response(body, headers=answer.receipt)

    async def _ask(
        self, request: EmbeddingRequest, caller: Caller
    ) -> Answer[oip.ModelInferResponse]:
        reference = parse_reference(request.model)
        now = self.watch.now
        require_task(reference, now.manifest(reference), "text-embedding")
        now.resolve(reference)
        hop = Hop(
            model=reference,
            timeout_s=hop_timeout_s(caller, default_s=self.timeout_s),
            affinity=affinity_key(
                session=caller.session, conversation=request.conversation_key, user=request.user
            ),
            session=caller.session,
            request_id=caller.request_id,
        )
        version = "" if reference.version is None else str(reference.version)
        with in_words_of(EMBEDDING_FIELDS):
            return await self.nodes.infer(make_infer(request, reference.name, version), hop)


def make_infer(request: EmbeddingRequest, model: str, version: str) -> oip.ModelInferRequest:
    """The tensor request for these texts."""
    message = oip.ModelInferRequest(model_name=model, model_version=version)
    shape = [len(request.input)]
    message.inputs.add(name=INPUT, datatype="BYTES", shape=shape)
    raw = json_to_raw(request.input, "BYTES", shape, field="input")
    message.raw_input_contents.append(raw)
    message.outputs.add(name=OUTPUT)
    return message


def _items(response: oip.ModelInferResponse, encoding: str) -> Iterator[dict[str, Any]]:
    for index, vector in enumerate(split_vectors(response)):
        value = (
            base64.b64encode(vector).decode()
            if encoding == "base64"
            else struct.unpack(f"<{len(vector) // 4}f", vector)
        )
        yield {"object": "embedding", "index": index, "embedding": value}


def split_vectors(response: oip.ModelInferResponse) -> Iterator[memoryview]:
    """The bytes of each row of the embedding."""
    output = next((each for each in response.outputs if each.name == OUTPUT), None)
    well_formed = output is not None and output.datatype == "FP32" and len(output.shape) == 2  # noqa: PLR2004
    if output is None or not well_formed or not response.raw_output_contents:
        raise Internal(f"model '{response.model_name}' did not answer with an embedding")
    rows, columns = output.shape
    raw = memoryview(response.raw_output_contents[list(response.outputs).index(output)])
    if len(raw) != rows * columns * 4:
        raise Internal(f"model '{response.model_name}' answered with a broken embedding")
    for row in range(rows):
        yield raw[row * columns * 4 : (row + 1) * columns * 4]


def _usage(parameters: Mapping[str, oip.InferParameter]) -> Usage:
    counted = parameters.get(TOKENS_PARAMETER)
    return Usage(prompt_tokens=0 if counted is None else counted.int64_param, completion_tokens=0)
