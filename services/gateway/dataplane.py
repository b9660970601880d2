"""What the gateway does for the Open Inference Protocol, the same for gRPC and REST.

One method per question. Each resolves the model in the directory first, so that an unknown model or
one that nobody holds gets its precise error here; then it asks a node through Envoy. Requests are
the protocol's own messages: REST is translated before, in `oip/`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

from mesh.deadline import hop_timeout_s
from mesh.errors import ModelNotReady, RingmeshError, Unavailable
from mesh.infer_stream import mark_final
from mesh.pb import inference_pb2 as oip
from mesh.reference import ModelReference
from mesh.request_parameters import check_parameters, requested_sequence
from services.gateway.affinity import affinity_key
from services.gateway.caller import Caller
from services.gateway.directory import VersionState, parse_reference
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.node_client import Answer, Hop, NodeClient
from services.gateway.oip.shared_tensor import (
    fetch_inputs,
    refuse_output_places,
    store_outputs,
    take_output_places,
)
from services.gateway.shared_memory import SharedMemory
from services.gateway.statistics import FleetStatistics
from services.gateway.text_inference import BegunText, TextInference


@dataclass(frozen=True, slots=True)
class Dataplane:
    """The directory and the nodes, behind the protocol's questions."""

    watch: DirectoryWatch
    nodes: NodeClient
    fleet: FleetStatistics
    texts: TextInference
    memory: SharedMemory
    infer_timeout_s: float

    async def infer(
        self, request: oip.ModelInferRequest, caller: Caller
    ) -> Answer[oip.ModelInferResponse]:
        """Runs the model that the request names."""
        places = take_output_places(request, self.memory, caller)
        fetch_inputs(request, self.memory, caller)
        answer = await self._infer(request, caller)
        store_outputs(answer.message, places, self.memory, caller)
        return answer

    async def _infer(
        self, request: oip.ModelInferRequest, caller: Caller
    ) -> Answer[oip.ModelInferResponse]:
        if self.is_decoupled(request):
            return await self.answer_text(request, caller)
        reference = _reference(request)
        self.watch.now.resolve(reference)
        check_parameters(request.parameters)
        request.model_name, request.model_version = _addressed(reference)
        sequence = requested_sequence(request.parameters)
        key = affinity_key(session=caller.session, sequence=sequence)
        return await self.nodes.infer(request, self._hop(reference, caller, key))

    def is_decoupled(self, request: oip.ModelInferRequest) -> bool:
        """Whether the model answers in pieces on a stream; no, if there is no such model."""
        try:
            reference = parse_reference(request.model_name, request.model_version)
            return self.watch.now.manifest(reference).task == "text-generation"
        except RingmeshError:  # told when the request is answered
            return False

    async def pieces(
        self, request: oip.ModelInferRequest, caller: Caller
    ) -> AsyncGenerator[oip.ModelInferResponse, None]:
        """The responses to a request on a stream, the last one marked."""
        if not self.is_decoupled(request):
            yield mark_final((await self.infer(request, caller)).message)
            return
        refuse_output_places(request)
        fetch_inputs(request, self.memory, caller)
        begun = await self.begin_text(request, caller)
        async with aclosing(begun.responses) as responses:
            async for response in responses:
                yield response

    async def begin_text(self, request: oip.ModelInferRequest, caller: Caller) -> BegunText:
        """Begins the text of a language model, which comes piece by piece."""
        reference = _reference(request)
        self.texts.generation.check(reference)
        return await self.texts.begin(reference, request, caller)

    async def answer_text(
        self, request: oip.ModelInferRequest, caller: Caller
    ) -> Answer[oip.ModelInferResponse]:
        """The text of a language model as one response."""
        reference = _reference(request)
        self.texts.generation.check(reference)
        return await self.texts.answer(reference, request, caller)

    async def is_ready(self, name: str, version: str, caller: Caller) -> bool:
        """Whether a request for this model would be answered now; a node is asked."""
        reference = parse_reference(name, version, field="name")
        self.watch.now.states(reference)  # refuses what does not exist
        try:
            self.watch.now.resolve(reference)
            name, version = _addressed(reference)
            request = oip.ModelReadyRequest(name=name, version=version)
            answer = await self.nodes.model_ready(request, self._hop(reference, caller))
        except (ModelNotReady, Unavailable):
            return False
        return answer.message.ready

    async def is_routed(self, reference: ModelReference, caller: Caller) -> bool:
        """Whether the proxies have a node to ask about this model, ready or not."""
        name, version = _addressed(reference)
        request = oip.ModelReadyRequest(name=name, version=version)
        try:
            await self.nodes.model_ready(request, self._hop(reference, caller))
        except (ModelNotReady, Unavailable):
            return False
        return True

    async def metadata(
        self, name: str, version: str, caller: Caller
    ) -> Answer[oip.ModelMetadataResponse]:
        """The model's inputs and outputs."""
        reference = parse_reference(name, version, field="name")
        self.watch.now.resolve(reference)
        name, version = _addressed(reference)
        request = oip.ModelMetadataRequest(name=name, version=version)
        return await self.nodes.model_metadata(request, self._hop(reference, caller))

    async def config(
        self, name: str, version: str, caller: Caller
    ) -> Answer[oip.ModelConfigResponse]:
        """The model's configuration, in Triton's form."""
        reference = parse_reference(name, version, field="name")
        self.watch.now.resolve(reference)
        name, version = _addressed(reference)
        request = oip.ModelConfigRequest(name=name, version=version)
        return await self.nodes.model_config(request, self._hop(reference, caller))

    async def statistics(self, name: str, version: str) -> oip.ModelStatisticsResponse:
        """What the nodes have done together: for all models, for one, or for one version."""
        now = self.watch.now
        if not name:
            return await self._count(now.all_states())
        reference = parse_reference(name, version, field="name")
        states = now.all_versions(reference)
        if not any(state.is_ready for state in states):
            now.resolve(reference)  # says why nobody would answer
        return await self._count(states)

    async def _count(self, states: Iterable[VersionState]) -> oip.ModelStatisticsResponse:
        ready = [state for state in states if state.is_ready]
        return await self.fleet.read(ready, self.watch.now.holders)

    def _hop(self, reference: ModelReference, caller: Caller, affinity: str | None = None) -> Hop:
        return Hop(
            model=reference,
            timeout_s=hop_timeout_s(caller, default_s=self.infer_timeout_s),
            affinity=affinity or affinity_key(session=caller.session),
            session=caller.session,
            request_id=caller.request_id,
        )


def _reference(request: oip.ModelInferRequest) -> ModelReference:
    name, version = request.model_name, request.model_version
    return parse_reference(name, version, field="model_name", version_field="model_version")


def _addressed(reference: ModelReference) -> tuple[str, str]:
    """Name and version as the node reads them; an alias or a split is resolved by the route."""
    return reference.name, "" if reference.version is None else str(reference.version)
