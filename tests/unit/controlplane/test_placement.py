"""Placement: enough replicas, little movement, and no gap while something moves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.controlplane.placement import Node, keep_until_replaced, place
from mesh.deployment import Assignment, Deployment, Placement
from tests.unit.controlplane.documents import deployment, version_spec

NODES = st.sets(st.sampled_from([f"node-{number}" for number in range(9)]), min_size=1)
MODELS = st.dictionaries(
    st.sampled_from(["smollm2", "minilm", "identity", "other"]),
    st.tuples(st.integers(1, 4), st.sets(st.integers(1, 3), min_size=1)),
    min_size=1,
)


def deployments(models: dict[str, tuple[int, set[int]]]) -> list[Deployment]:
    return [
        deployment(model, dict.fromkeys(sorted(versions), 1), replicas=replicas)
        for model, (replicas, versions) in models.items()
    ]


def holders(placements: dict[str, Placement]) -> dict[tuple[str, int], set[str]]:
    found: dict[tuple[str, int], set[str]] = {}
    for node, placement in placements.items():
        for each in placement.assignments:
            found.setdefault((each.model, each.spec.version), set()).add(node)
    return found


@settings(deadline=None)
@given(NODES, MODELS)
def test_every_version_has_its_replicas_as_far_as_there_are_nodes(
    nodes: set[str], models: dict[str, tuple[int, set[int]]]
) -> None:
    placed = place(map(Node, nodes), deployments(models))
    assert placed.keys() == nodes
    found = holders(placed)
    for model, (replicas, versions) in models.items():
        for version in versions:
            assert len(found[model, version]) == min(replicas, len(nodes))


@settings(deadline=None)
@given(NODES, MODELS)
def test_a_node_that_leaves_moves_only_what_it_held(
    nodes: set[str], models: dict[str, tuple[int, set[int]]]
) -> None:
    gone, *stay = sorted(nodes)
    wanted = deployments(models)
    before = holders(place(map(Node, nodes), wanted))
    after = holders(place(map(Node, stay), wanted))
    for holding, nodes_before in before.items():
        assert nodes_before - {gone} <= after.get(holding, set())
        if gone not in nodes_before:
            assert after.get(holding, set()) == nodes_before


@settings(deadline=None)
@given(NODES, MODELS)
def test_all_versions_of_a_model_lie_together(
    nodes: set[str], models: dict[str, tuple[int, set[int]]]
) -> None:
    found = holders(place(map(Node, nodes), deployments(models)))
    for model, (_, versions) in models.items():
        assert len({frozenset(found[model, version]) for version in versions}) == 1


def test_models_spread_over_the_nodes() -> None:
    nodes = [Node(f"node-{number}") for number in range(4)]
    wanted = [deployment(f"model-{number}", {1: 1}, replicas=1) for number in range(200)]
    counts = [len(each.assignments) for each in place(nodes, wanted).values()]
    assert sum(counts) == 200
    assert min(counts) > 30


def test_a_node_holds_only_what_it_can_run() -> None:
    spec = version_spec("chat", 1, "gguf")
    chat = deployment("chat", {1: 1}).model_copy(update={"versions": {1: spec}})
    small = Node("small", formats=frozenset({"identity"}))
    placed = place([small, Node("large")], [chat])
    assert holders(placed) == {("chat", 1): {"large"}}
    assert placed["small"].assignments == ()


def held(node: str, *models: str) -> Placement:
    assignments = tuple(Assignment(model=each, spec=version_spec(each, 1)) for each in models)
    return Placement(node=node, assignments=assignments)


def test_a_replica_that_moves_stays_until_the_new_one_is_ready() -> None:
    current = {"old": held("old", "m")}
    wanted = {"old": held("old"), "new": held("new", "m")}
    ready = frozenset({("m", 1)})

    loading = [Node("old", ready=ready), Node("new")]
    assert keep_until_replaced(wanted, current, loading) == {**wanted, "old": held("old", "m")}

    loaded = [Node("old", ready=ready), Node("new", ready=ready)]
    assert keep_until_replaced(wanted, current, loaded) == wanted


def test_what_is_not_wanted_or_does_not_serve_is_not_kept() -> None:
    current = {"old": held("old", "m", "dropped")}
    wanted = {"old": held("old"), "new": held("new", "m")}
    idle = [Node("old", ready=frozenset({("dropped", 1)})), Node("new")]
    assert keep_until_replaced(wanted, current, idle) == wanted
