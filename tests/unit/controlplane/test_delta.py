"""The delta protocol: single rules by example, convergence and order by random histories."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.controlplane.delta import DeltaStream
from mesh.controlplane.snapshot import Resource, ResourceType, Snapshot
from mesh.controlplane.subscription import Request, Response

CLUSTER, ENDPOINT, LISTENER, ROUTE = ResourceType


def resource(name: str, version: str = "1", uses: tuple[str, ...] = ()) -> Resource:
    return Resource(name, {"uses": uses}, b"", version)


def snapshot(clusters: dict[str, str], uses: tuple[str, ...] = (), route: str = "1") -> Snapshot:
    """Clusters with their versions, their endpoints, one listener, one route to some clusters."""
    return Snapshot(
        {
            CLUSTER: {name: resource(name, version) for name, version in clusters.items()},
            ENDPOINT: {name: resource(name) for name in clusters},
            LISTENER: {"mesh": resource("mesh")},
            ROUTE: {"mesh": resource("mesh", f"{route} {uses}", uses)},
        }
    )


def told(responses: list[Response]) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [
        (each.kind.name, tuple(found.name for found in each.resources), each.removed)
        for each in responses
    ]


def subscribe(stream: DeltaStream, kind: ResourceType, *names: str, **held: str) -> None:
    stream.on_request(Request(kind, frozenset(names), initial_versions=held))


def confirm(stream: DeltaStream, response: Response, error: str | None = None) -> None:
    stream.on_request(Request(response.kind, nonce=response.nonce, error=error))


def test_a_client_that_is_up_to_date_is_told_nothing() -> None:
    stream, world = DeltaStream(), snapshot({"a": "1"}, ("a",))
    subscribe(stream, CLUSTER, a="1")
    subscribe(stream, ENDPOINT, "a", a="1")
    subscribe(stream, LISTENER, mesh="1")
    subscribe(stream, ROUTE, "mesh", mesh="1 ('a',)")
    assert stream.responses(world) == []
    assert stream.has_applied(world)


def test_an_empty_world_is_still_an_answer_to_who_asks_for_all() -> None:
    stream = DeltaStream()
    subscribe(stream, CLUSTER)
    assert told(stream.responses(Snapshot({}))) == [("CLUSTER", (), ())]
    assert stream.responses(Snapshot({})) == []


def test_a_name_that_does_not_exist_is_said_to_be_absent_once() -> None:
    stream, world = DeltaStream(), snapshot({})
    subscribe(stream, ENDPOINT, "a")
    [response] = stream.responses(world)
    assert told([response]) == [("ENDPOINT", (), ("a",))]
    confirm(stream, response)
    assert stream.responses(world) == []
    assert told(stream.responses(snapshot({"a": "1"}))) == [("ENDPOINT", ("a",), ())]


def test_changes_collapse_while_a_response_is_under_way() -> None:
    stream = DeltaStream()
    subscribe(stream, CLUSTER)
    [first] = stream.responses(snapshot({"a": "1"}))
    assert stream.responses(snapshot({"a": "2"})) == []
    confirm(stream, first)
    [second] = stream.responses(snapshot({"a": "3"}))
    assert [each.version for each in second.resources] == ["3"]


def test_an_answer_to_an_older_response_settles_nothing() -> None:
    stream = DeltaStream()
    subscribe(stream, CLUSTER)
    stream.responses(snapshot({"a": "1"}))
    stream.on_request(Request(CLUSTER, nonce="0"))
    assert stream.responses(snapshot({"a": "2"})) == []


def test_a_changed_cluster_takes_its_endpoints_along() -> None:
    stream, world = DeltaStream(), snapshot({"a": "1"})
    subscribe(stream, CLUSTER, a="0")
    subscribe(stream, ENDPOINT, "a", a="1")
    assert told(stream.responses(world)) == [("CLUSTER", ("a",), ()), ("ENDPOINT", ("a",), ())]


def test_what_is_asked_for_again_is_sent_again() -> None:
    stream, world = DeltaStream(), snapshot({"a": "1"})
    subscribe(stream, ENDPOINT, "a")
    [response] = stream.responses(world)
    subscribe(stream, ENDPOINT, "a")  # crosses the response on the wire
    confirm(stream, response)
    assert told(stream.responses(world)) == [("ENDPOINT", ("a",), ())]


def test_a_refused_resource_is_found_and_not_sent_again() -> None:
    stream, world = DeltaStream(), snapshot({"a": "1", "b": "1"})
    subscribe(stream, CLUSTER)
    [both] = stream.responses(world)
    rejection = stream.on_request(Request(CLUSTER, nonce=both.nonce, error="b is bad"))
    assert rejection is not None
    assert rejection.names == ("a", "b")
    [alone] = stream.responses(world)
    confirm(stream, alone)
    [suspect] = stream.responses(world)
    assert told([alone, suspect]) == [("CLUSTER", ("a",), ()), ("CLUSTER", ("b",), ())]
    confirm(stream, suspect, "b is bad")
    assert stream.responses(world) == []
    assert stream.refusals(world) == ("cluster b",)
    mended = snapshot({"a": "1", "b": "2"})
    assert told(stream.responses(mended)) == [("CLUSTER", ("b",), ())]
    assert stream.refusals(mended) == ()


@dataclass
class Client:
    """What Envoy does with what it is told, as far as order and confirmation go."""

    stream: DeltaStream
    bad: frozenset[tuple[str, str]] = frozenset()
    has: dict[ResourceType, dict[str, Resource]] = field(
        default_factory=lambda: {kind: {} for kind in ResourceType}
    )
    answers: dict[ResourceType, Request] = field(default_factory=dict)
    warming: set[str] = field(default_factory=set)

    def connect(self) -> None:
        self.answers.clear()
        self.warming.clear()
        held = {
            kind: {name: each.version for name, each in found.items()}
            for kind, found in self.has.items()
        }
        for kind, names in {
            CLUSTER: set(),
            ENDPOINT: set(self.has[CLUSTER]),
            LISTENER: set(),
            ROUTE: {"mesh"},
        }.items():
            self.stream.on_request(Request(kind, frozenset(names), initial_versions=held[kind]))

    def take(self, response: Response) -> None:
        assert response.kind not in self.answers, "two responses of a kind under way"
        may_be_bad = response.resources if response.kind is CLUSTER else ()
        bad = [each for each in may_be_bad if (each.name, each.version) in self.bad]
        good = {each.name: each for each in response.resources if each not in bad}
        if response.kind is ROUTE and good:
            self.check(good["mesh"], first=not self.has[ROUTE])
        self.has[response.kind].update(good)
        for name in response.removed:
            self.has[response.kind].pop(name, None)
            if response.kind is CLUSTER:
                assert all(name not in each.spec["uses"] for each in self.has[ROUTE].values())
                self.has[ENDPOINT].pop(name, None)
        self.answers[response.kind] = Request(
            response.kind, nonce=response.nonce, error="bad" if bad else None
        )
        if response.kind is CLUSTER:
            self.warming = set(good)
            added, removed = frozenset(good), frozenset(response.removed)
            self.stream.on_request(Request(ENDPOINT, subscribe=added, unsubscribe=removed))
        if response.kind is ENDPOINT:
            self.warming -= {*good, *response.removed}

    def check(self, route: Resource, first: bool) -> None:
        missing = set(route.spec["uses"]) - self.has[CLUSTER].keys()
        refused = {name for name, _ in self.bad}
        assert not missing or (first and missing <= refused), "a route leads nowhere"

    def answer(self, kind: ResourceType) -> None:
        if kind in self.answers and not (kind is CLUSTER and self.warming):
            self.stream.on_request(self.answers.pop(kind))


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    names = st.sampled_from("abcd")
    clusters = draw(st.dictionaries(names, st.sampled_from("12"), max_size=4))
    uses = draw(st.sets(st.sampled_from(sorted(clusters)))) if clusters else set()
    return snapshot(clusters, tuple(sorted(uses)), draw(st.sampled_from("12")))


Step = Snapshot | ResourceType | None


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.one_of(worlds(), st.sampled_from(ResourceType), st.none()), max_size=25),
    last=worlds(),
    bad=st.frozensets(st.tuples(st.sampled_from("abcd"), st.sampled_from("12")), max_size=2),
)
def test_every_history_ends_where_it_should_and_no_route_ever_leads_nowhere(
    steps: list[Step], last: Snapshot, bad: frozenset[tuple[str, str]]
) -> None:
    client = Client(DeltaStream(), bad)
    client.connect()
    world = snapshot({})
    for step in steps:
        if isinstance(step, ResourceType):
            client.answer(step)
        elif step is None:
            client.stream = DeltaStream()
            client.connect()
        else:
            world = step
        _deliver(client, world)
    _settle(client, last)
    wrong = {name for name, each in last.of(CLUSTER).items() if (name, each.version) in bad}
    assert set(client.stream.refusals(last)) == {f"cluster {name}" for name in wrong}
    assert client.stream.has_applied(last) == (not wrong)
    if not wrong:
        assert client.has == {kind: dict(last.of(kind)) for kind in ResourceType}


def _deliver(client: Client, world: Snapshot) -> bool:
    responses = client.stream.responses(world)
    for response in responses:
        client.take(response)
    return bool(responses)


def _settle(client: Client, world: Snapshot) -> None:
    for _ in range(60):
        busy = _deliver(client, world) or bool(client.answers)
        for kind in ResourceType:
            client.answer(kind)
        if not busy:
            return
    raise AssertionError("never came to rest")
