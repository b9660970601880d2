"""The delta variant of xDS for one stream, decided without I/O.

For each kind of resource the stream knows what the client wants, what it has, what it refused, and
the one response that is under way; changes that come meanwhile collapse into the next. Four things
were learnt from Envoy and are easy to lose:

* A client that reconnects says what it has, and gets only what differs.
* Envoy warms a changed cluster and waits for its endpoints without asking for them again, and holds
  the answer to the cluster back until they come. So with a cluster its endpoints are sent anew.
* Envoy applies the good resources of a response that it refuses. So each is sent again alone, and
  only the one refused then counts as refused; it is not sent again until its content changes.
* Routes go out when the clusters they name are known to be warm, and clusters are taken away when
  the routes that named them are known to be gone. A refused cluster holds back the routes that may
  need it: what serves goes on serving.

Knows neither what the resources mean nor how they travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mesh.controlplane.snapshot import Resource, ResourceType, Snapshot

WILDCARD = "*"
ABSENT = ""
"""The version of a resource that the client has been told does not exist."""
UNKNOWN = "?"
"""The version of a resource that the client has in one version or another."""

CLUSTER, ENDPOINT, LISTENER, ROUTE = ResourceType

_CHANGES_AFTER: Mapping[ResourceType, tuple[ResourceType, ...]] = {
    CLUSTER: (),
    ENDPOINT: (),
    LISTENER: (CLUSTER,),
    ROUTE: (CLUSTER,),
}
_REMOVALS_AFTER: Mapping[ResourceType, tuple[ResourceType, ...]] = {
    CLUSTER: (LISTENER, ROUTE),
    ENDPOINT: (CLUSTER,),
    LISTENER: (),
    ROUTE: (LISTENER,),
}
_ASKS_FOR_ALL = (CLUSTER, LISTENER)
"""The kinds for which a first request without names means all of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the client says."""

    kind: ResourceType
    subscribe: frozenset[str] = frozenset()
    unsubscribe: frozenset[str] = frozenset()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What the client is told."""

    kind: ResourceType
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A response that the client refused, with its reason."""

    kind: ResourceType
    names: tuple[str, ...]
    message: str


@dataclass(slots=True)
class _Subscription:
    kind: ResourceType
    everything: bool
    names: set[str]
    held: dict[str, str]
    """What the client has, by name and version."""
    greeted: bool
    """Whether the client needs no first answer any more, were it an empty one."""
    refused: dict[str, str] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)
    """Sent together in a response that was refused: to be sent one by one."""
    again: set[str] = field(default_factory=set)
    """Asked for while a response with them may be under way."""
    in_flight: Response | None = None

    @classmethod
    def begin(cls, request: Request) -> _Subscription:
        everything = WILDCARD in request.subscribe or (
            not request.subscribe and request.kind in _ASKS_FOR_ALL
        )
        held = dict(request.initial_versions)
        names = set(request.subscribe) - {WILDCARD}
        return cls(request.kind, everything, names, held, greeted=bool(held) or not everything)

    def change_interest(self, request: Request) -> None:
        self.everything |= WILDCARD in request.subscribe
        self.everything &= WILDCARD not in request.unsubscribe
        self.names |= request.subscribe - {WILDCARD}
        self.names -= request.unsubscribe
        for name in request.unsubscribe:
            self.held.pop(name, None)
        for name in request.subscribe:
            self.resend(name)

    def resend(self, name: str) -> None:
        self.held.pop(name, None)
        self.refused.pop(name, None)
        if self.in_flight is not None:
            self.again.add(name)

    def settle(self, error: str | None) -> Rejection | None:
        """Takes the answer to the response under way."""
        response, self.in_flight = self.in_flight, None
        if response is None:
            return None
        self._forget(response.removed)
        if error is None:
            self._accept(response.resources)
        else:
            self._refuse(response.resources)
        self.again.clear()
        names = tuple(each.name for each in response.resources)
        return None if error is None else Rejection(self.kind, names, error)

    def _forget(self, removed: tuple[str, ...]) -> None:
        self.suspects.difference_update(removed)
        for name in removed:
            self.held.pop(name, None)
            if name in self.names and name not in self.again:
                self.held[name] = ABSENT

    def _accept(self, resources: tuple[Resource, ...]) -> None:
        for each in resources:
            self.suspects.discard(each.name)
            self.refused.pop(each.name, None)
            if each.name not in self.again:
                self.held[each.name] = each.version

    def _refuse(self, resources: tuple[Resource, ...]) -> None:
        if len(resources) == 1:
            self.suspects.discard(resources[0].name)
            self.refused[resources[0].name] = resources[0].version
        else:
            names = {each.name for each in resources}
            self.suspects |= names
            # It has either what it had or what was sent now.
            self.held.update(dict.fromkeys(names & self.held.keys(), UNKNOWN))

    def changes(self, snapshot: Snapshot) -> list[Resource]:
        """What the client lacks and has not refused."""
        found = snapshot.of(self.kind)
        names = found.keys() if self.everything else self.names & found.keys()
        return [
            found[name]
            for name in sorted(names)
            if found[name].version not in (self.held.get(name), self.refused.get(name))
        ]

    def removals(self, snapshot: Snapshot) -> set[str]:
        """What the client has, or may have, and should not have any more."""
        had = {name for name, version in self.held.items() if version != ABSENT}
        return (had | self.suspects) - snapshot.of(self.kind).keys()

    def absences(self, snapshot: Snapshot) -> set[str]:
        """What the client waits for in vain: it should be told at once."""
        return self.names - self.held.keys() - snapshot.of(self.kind).keys()

    def refusals(self, snapshot: Snapshot) -> Iterator[str]:
        """The resources that the client refused as they are now."""
        for name, resource in snapshot.of(self.kind).items():
            if self.refused.get(name) == resource.version:
                yield name

    def is_settled(self, snapshot: Snapshot) -> bool:
        """Whether the client has everything of this kind that it lacked (removals aside)."""
        return not self.is_on_its_way(snapshot) and not any(self.refusals(snapshot))

    def is_on_its_way(self, snapshot: Snapshot) -> bool:
        """Whether something that the client lacks is being sent, or about to be."""
        return self.in_flight is not None or bool(self.changes(snapshot))

    def lacks_refused(self, snapshot: Snapshot) -> bool:
        """Whether the client refused something of which it has no older version either."""
        return any(name not in self.held for name in self.refusals(snapshot))


class DeltaStream:
    """The state of one stream; feed it requests, ask it for responses."""

    def __init__(self) -> None:
        self._subscriptions: dict[ResourceType, _Subscription] = {}
        self._last_nonce = 0

    def __repr__(self) -> str:
        held = ", ".join(
            f"{len(each.held)} {kind.name.lower()}s" for kind, each in self._subscriptions.items()
        )
        return f"<DeltaStream has {held or 'nothing'}>"

    def on_request(self, request: Request) -> Rejection | None:
        """Takes what the client says; a rejection is for whoever watches over the mesh."""
        subscription = self._subscriptions.get(request.kind)
        if subscription is None:
            self._subscriptions[request.kind] = _Subscription.begin(request)
            return None
        rejection = None
        under_way = subscription.in_flight
        if under_way is not None and request.nonce == under_way.nonce:
            rejection = subscription.settle(request.error)
        subscription.change_interest(request)
        return rejection

    def responses(self, snapshot: Snapshot) -> list[Response]:
        """What to send now; each counts as under way until the client has answered it."""
        found = (self._respond(kind, snapshot) for kind in ResourceType)
        return [response for response in found if response is not None]

    def has_applied(self, snapshot: Snapshot) -> bool:
        """Whether the client has confirmed all of this snapshot, removals included."""
        return all(
            subscription is not None
            and subscription.is_settled(snapshot)
            and not subscription.removals(snapshot)
            for subscription in map(self._subscriptions.get, ResourceType)
        )

    def refusals(self, snapshot: Snapshot) -> tuple[str, ...]:
        """What of this snapshot the client has refused."""
        return tuple(
            f"{kind.name.lower()} {name}"
            for kind, subscription in self._subscriptions.items()
            for name in subscription.refusals(snapshot)
        )

    def _respond(self, kind: ResourceType, snapshot: Snapshot) -> Response | None:
        subscription = self._subscriptions.get(kind)
        if subscription is None or subscription.in_flight is not None:
            return None
        resources = self._changes(subscription, snapshot)
        removed = self._removals(subscription, snapshot) | subscription.absences(snapshot)
        if not resources and not removed and subscription.greeted:
            return None
        self._last_nonce += 1
        response = Response(kind, str(self._last_nonce), tuple(resources), tuple(sorted(removed)))
        subscription.in_flight = response
        subscription.greeted = True
        if kind is CLUSTER:
            self._resend_endpoints(response)
        return response

    def _changes(self, subscription: _Subscription, snapshot: Snapshot) -> list[Resource]:
        before = [self._subscriptions.get(kind) for kind in _CHANGES_AFTER[subscription.kind]]
        if any(each is not None and each.is_on_its_way(snapshot) for each in before):
            return []
        changes = subscription.changes(snapshot)
        if any(each is not None and each.lacks_refused(snapshot) for each in before):
            # Only a client that has nothing to fall back on gets what may lead nowhere.
            changes = [each for each in changes if each.name not in subscription.held]
        suspects = [each for each in changes if each.name in subscription.suspects]
        return suspects[:1] or changes

    def _removals(self, subscription: _Subscription, snapshot: Snapshot) -> set[str]:
        before = map(self._subscriptions.get, _REMOVALS_AFTER[subscription.kind])
        if any(each is not None and not each.is_settled(snapshot) for each in before):
            return set()
        if subscription.kind is ENDPOINT and self._is_removing_clusters(snapshot):
            return set()
        return subscription.removals(snapshot)

    def _is_removing_clusters(self, snapshot: Snapshot) -> bool:
        clusters = self._subscriptions.get(CLUSTER)
        return clusters is not None and bool(clusters.removals(snapshot))

    def _resend_endpoints(self, response: Response) -> None:
        endpoints = self._subscriptions.get(ENDPOINT)
        if endpoints is None:
            return
        for each in response.resources:
            if each.name in endpoints.names:
                endpoints.resend(each.name)
