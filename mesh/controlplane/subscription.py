"""What one client has of one kind of resource, and what it is being told.

Three things were learnt from Envoy and are easy to lose:

* A client that reconnects says what it has, and gets only what differs.
* Envoy applies the good resources of a response that it refuses. So each is sent again alone, and
  only the one refused then counts as refused; it is not sent again until its content changes.
* A name that is asked for again while a response is under way is sent once more: the client may
  have dealt with that response before it asked.
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

_ASKS_FOR_ALL = (ResourceType.CLUSTER, ResourceType.LISTENER)
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
class Subscription:
    """The client's interest in one kind, what it has confirmed, and the response under way."""

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
    def begin(cls, request: Request) -> Subscription:
        """From the first request of this kind on a stream."""
        everything = WILDCARD in request.subscribe or (
            not request.subscribe and request.kind in _ASKS_FOR_ALL
        )
        held = dict(request.initial_versions)
        names = set(request.subscribe) - {WILDCARD}
        return cls(request.kind, everything, names, held, greeted=bool(held) or not everything)

    def change_interest(self, request: Request) -> None:
        """Takes over what a later request asks for and gives up."""
        self.everything |= WILDCARD in request.subscribe
        self.everything &= WILDCARD not in request.unsubscribe
        self.names |= request.subscribe - {WILDCARD}
        self.names -= request.unsubscribe
        for name in request.unsubscribe:
            self.held.pop(name, None)
        for name in request.subscribe:
            self.resend(name)

    def resend(self, name: str) -> None:
        """Forgets that the client has this, or has refused it."""
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

    def has_exactly(self, snapshot: Snapshot) -> bool:
        """Whether the client has confirmed all there is, and nothing else is left with it."""
        wanted = {name: each.version for name, each in snapshot.of(self.kind).items()}
        held = {name: version for name, version in self.held.items() if version != ABSENT}
        return self.in_flight is None and held == wanted

    def is_on_its_way(self, snapshot: Snapshot) -> bool:
        """Whether something that the client lacks is being sent, or about to be."""
        return self.in_flight is not None or bool(self.changes(snapshot))

    def lacks_refused(self, snapshot: Snapshot) -> bool:
        """Whether the client refused something of which it has no older version either."""
        return any(name not in self.held for name in self.refusals(snapshot))
