"""The delta variant of xDS for one stream, decided without I/O.

For each kind of resource there is one response under way at most; changes that come meanwhile
collapse into the next. What this adds to the single subscriptions is order:

* Envoy warms a changed cluster and waits for its endpoints without asking for them again, and holds
  the answer to the cluster back until they come. So with a cluster its endpoints are sent anew.
* Routes go out when the clusters they name are known to be warm, and clusters are taken away when
  the routes that named them are known to be gone. A refused cluster holds back the routes that may
  need it: what serves goes on serving.

Knows neither what the resources mean nor how they travel.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.controlplane.snapshot import Resource, ResourceType, Snapshot
from mesh.controlplane.subscription import Rejection, Request, Response, Subscription

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


class DeltaStream:
    """The state of one stream; feed it requests, ask it for responses."""

    def __init__(self) -> None:
        self._subscriptions: dict[ResourceType, Subscription] = {}
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
            self._subscriptions[request.kind] = Subscription.begin(request)
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
        """Whether the client has confirmed all of this snapshot, removals included.

        What it has not asked for yet counts as missing: it is about to ask.
        """
        found = map(self._subscriptions.get, ResourceType)
        return all(each is not None and each.has_exactly(snapshot) for each in found)

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

    def _changes(self, subscription: Subscription, snapshot: Snapshot) -> list[Resource]:
        before = [self._subscriptions.get(kind) for kind in _CHANGES_AFTER[subscription.kind]]
        if any(each is not None and each.is_on_its_way(snapshot) for each in before):
            return []
        changes = subscription.changes(snapshot)
        if any(each is not None and each.lacks_refused(snapshot) for each in before):
            # Only a client that has nothing to fall back on gets what may lead nowhere.
            changes = [each for each in changes if each.name not in subscription.held]
        suspects = [each for each in changes if each.name in subscription.suspects]
        return suspects[:1] or changes

    def _removals(self, subscription: Subscription, snapshot: Snapshot) -> set[str]:
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
