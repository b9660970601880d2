"""Loading and unloading by hand on all nodes, and the state of everything on each of them.

The deployments say what there is; the nodes say how they do with it. A node on which the model is
not placed has nothing to load, so its refusal counts only if every node refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from mesh.deadline import hop_timeout_s
from mesh.errors import FailedPrecondition, ModelNotFound, ModelNotReady, Unavailable
from mesh.pb import inference_pb2 as oip
from mesh.pb import inference_pb2_grpc, node_pb2, node_pb2_grpc
from mesh.reference import ModelReference
from mesh.repository_request import check_repository_request
from mesh.retry import attempts
from services.gateway.caller import Caller
from services.gateway.directory import VersionState, parse_reference
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.fleet import Fleet, NodeReply, answers_of

INDEX_TIMEOUT_S = 5.0
"""A node answers from memory; one that computes hard may need a moment to come to it."""
LOAD_TIMEOUT_S = 600.0
"""Loading fetches and compiles; for a caller that sets no deadline of its own."""
ROUTE_TIMEOUT_S = 10.0
"""How long the proxies may take to learn that a node has a model."""

ModelIndex: TypeAlias = oip.RepositoryIndexResponse.ModelIndex
Change: TypeAlias = oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest
IsReady = Callable[[str, str, Caller], Awaitable[bool]]
IsRouted = Callable[[ModelReference, Caller], Awaitable[bool]]


class StillRouted(Unavailable):
    """The proxies have not learnt yet that a model has left its nodes."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """How one node does with one version, in the node's own words."""

    node: str
    model: str
    version: str
    state: str
    reason: str
    backend: str = ""
    memory_bytes: int = 0

    @property
    def protocol_state(self) -> str:
        """The protocol's word, which does not tell what has left from what cannot be loaded."""
        return _PROTOCOL_STATES.get(self.state, self.state)

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.node} {self.protocol_state}{why}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A deployed version: what the protocol shows of it, and how each of its nodes does with it."""

    index: ModelIndex
    nodes: Sequence[NodeState]


@dataclass(frozen=True, slots=True)
class FleetRepository:
    """The nodes' repositories as one.

    `is_ready` asks a node through the proxies whether it would answer, `is_routed` whether the
    proxies still have a node to ask.
    """

    watch: DirectoryWatch
    fleet: Fleet
    is_ready: IsReady
    is_routed: IsRouted

    async def index(self, *, ready_only: bool) -> oip.RepositoryIndexResponse:
        """Every deployed version with its state; the reason tells the nodes apart."""
        entries = await self.entries(ready_only=ready_only)
        return oip.RepositoryIndexResponse(models=[entry.index for entry in entries])

    async def entries(self, *, ready_only: bool) -> Sequence[Entry]:
        """Every deployed version with the state of each of its nodes."""
        on_nodes = await self._node_states()
        entries = (combine(state, on_nodes) for state in self.watch.now.all_states())
        return [each for each in entries if each.index.state == "READY" or not ready_only]

    async def load(
        self, request: oip.RepositoryModelLoadRequest, caller: Caller
    ) -> Sequence[NodeState]:
        """Loads on every node where the model is placed; returns once the mesh answers with it.

        Raises:
            ModelNotFound: it is not deployed.
            FailedPrecondition: it is placed on no node.
            Unavailable: a node cannot load it, or does not answer.
        """
        reference = self._checked(request)
        timeout_s = hop_timeout_s(caller, default_s=LOAD_TIMEOUT_S)

        async def ask(channel: grpc.aio.Channel) -> Any:
            stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            return await stub.RepositoryModelLoad(_for_node(request, reference), timeout=timeout_s)

        _check_some_did(await self.fleet.ask(self.watch.now.nodes, ask), reference)
        async for attempt in attempts(
            within_s=ROUTE_TIMEOUT_S, first_wait_s=0.02, max_wait_s=0.2, on=ModelNotReady
        ):
            with attempt:
                if not await self.is_ready(str(reference), "", caller):
                    raise ModelNotReady(str(reference), "LOADING", "it is not routed to yet")
        return await self._states_of(reference)

    async def unload(
        self, request: oip.RepositoryModelUnloadRequest, caller: Caller
    ) -> Sequence[NodeState]:
        """Takes the model out of service on every node; calls that have begun are finished.

        Raises:
            ModelNotFound: it is not deployed.
            FailedPrecondition: it is placed on no node.
            Unavailable: a node does not answer.
        """
        reference = self._checked(request)
        timeout_s = hop_timeout_s(caller, default_s=LOAD_TIMEOUT_S)

        async def ask(channel: grpc.aio.Channel) -> Any:
            stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            asked = _for_node(request, reference)
            return await stub.RepositoryModelUnload(asked, timeout=timeout_s)

        _check_some_did(await self.fleet.ask(self.watch.now.nodes, ask), reference)
        # Until the proxies know, a load right after this could take their old routes for new ones.
        async for attempt in attempts(
            within_s=ROUTE_TIMEOUT_S, first_wait_s=0.02, max_wait_s=0.2, on=StillRouted
        ):
            with attempt:
                if await self.is_routed(reference, caller):
                    raise StillRouted(f"model '{reference}' is still routed to a node")
        return await self._states_of(reference)

    def _checked(self, request: Change) -> ModelReference:
        """The model, or the one version, that is meant; an alias means its version."""
        check_repository_request(request)
        reference = parse_reference(request.model_name, field="model_name")
        states = self.watch.now.all_versions(reference)
        if str(reference) == reference.name:
            return reference
        return ModelReference(reference.name, version=states[0].version)

    async def _states_of(self, reference: ModelReference) -> Sequence[NodeState]:
        version = "" if reference.version is None else str(reference.version)
        return [
            each
            for each in await self._node_states()
            if each.model == reference.name and version in ("", each.version)
        ]

    async def _node_states(self) -> Sequence[NodeState]:
        replies = await self.fleet.ask(self.watch.now.nodes, _ask_states)
        return [
            _node_state(reply.node, each)
            for reply in replies
            if reply.answer is not None  # a node that has just died is in no index
            for each in reply.answer.models
        ]


def combine(deployed: VersionState, on_nodes: Iterable[NodeState]) -> Entry:
    """One version's entry: ready if some node would answer, and what the others are at."""
    key = (deployed.model, str(deployed.version))
    mine = [each for each in on_nodes if (each.model, each.version) == key]
    if not mine:
        index = ModelIndex(
            name=key[0], version=key[1], state=deployed.state, reason=deployed.reason
        )
        return Entry(index, ())
    states = {each.protocol_state for each in mine}
    best = next(state for state in _BEST_FIRST if state in states)
    reason = "" if states == {"READY"} else "; ".join(map(str, mine))
    return Entry(ModelIndex(name=key[0], version=key[1], state=best, reason=reason), mine)


_BEST_FIRST = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
_PROTOCOL_STATES = {"DRAINING": "UNLOADING", "UNLOADED": "UNAVAILABLE"}
"""The protocol's words where they differ from the node's."""


def _node_state(node: str, status: node_pb2.ModelStatus) -> NodeState:
    name = node_pb2.ModelState.Name(status.state)
    return NodeState(
        node=node,
        model=status.model,
        version=status.version,
        state=name.removeprefix("MODEL_STATE_"),
        reason=status.reason,
        backend=status.backend,
        memory_bytes=status.memory_bytes,
    )


def _for_node(request: Any, reference: ModelReference) -> Any:
    """The request with the model as a node knows it: by name or by number."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.model_name = str(reference)
    return asked


def _check_some_did(replies: Sequence[NodeReply[Any]], reference: ModelReference) -> None:
    concerned = [
        each for each in replies if not isinstance(each.error, ModelNotFound | FailedPrecondition)
    ]
    if not concerned:
        raise FailedPrecondition(f"model '{reference}' is placed on none of {len(replies)} nodes")
    answers_of(concerned)


async def _ask_states(channel: grpc.aio.Channel) -> node_pb2.ListModelsResponse:
    stub: Any = node_pb2_grpc.NodeStub(channel)
    answer: node_pb2.ListModelsResponse = await stub.ListModels(
        node_pb2.ListModelsRequest(), timeout=INDEX_TIMEOUT_S
    )
    return answer
