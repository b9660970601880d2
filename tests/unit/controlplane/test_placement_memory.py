"""Placement under limits of memory: nobody is promised room that is not there, newcomers wait."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.catalog import Instance
from mesh.controlplane.leader import read_nodes
from mesh.controlplane.placement import Node, keep_until_replaced, place
from mesh.deployment import ArtefactFile, Count, Deployment, Placement, TargetSpec, VersionSpec
from mesh.manifest import Manifest
from mesh.memory_estimate import estimate_bytes


def spec(model: str, size_bytes: int, version: int = 1) -> VersionSpec:
    file = ArtefactFile(path="model.onnx", digest="0" * 64, size_bytes=size_bytes)
    manifest = Manifest(name=model, task="tensor", format="onnx")
    return VersionSpec(version=version, digest="0" * 64, manifest=manifest, files=(file,))


def deployment(
    model: str, size_bytes: int, *, replicas: int = 1, may_page: bool = False
) -> Deployment:
    return Deployment(
        model=model,
        revision=1,
        replicas=replicas,
        may_page=may_page,
        targets=(TargetSpec(version=1, weight=1),),
        aliases={},
        versions={1: spec(model, size_bytes)},
    )


NODES = st.dictionaries(
    st.sampled_from([f"node-{n}" for n in range(6)]),
    st.one_of(st.none(), st.integers(0, 30)),
    min_size=1,
)
WANTED = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.tuples(st.integers(0, 20), st.integers(1, 3), st.booleans()),
    min_size=1,
)


def make(nodes, wanted, ready=None):
    ready = ready or {}
    return (
        [Node(n, memory_bytes=m, ready=ready.get(n, frozenset())) for n, m in nodes.items()],
        [
            deployment(m, size, replicas=replicas, may_page=may_page)
            for m, (size, replicas, may_page) in wanted.items()
        ],
    )


def sizes(placement: Placement, *, may_page: bool) -> list[int]:
    return [
        estimate_bytes(each.spec) for each in placement.assignments if each.may_page == may_page
    ]


def is_within(placement: Placement, budget: int | None) -> bool:
    fixed = sum(sizes(placement, may_page=False))
    paged = max(sizes(placement, may_page=True), default=0)
    return budget is None or fixed + paged <= budget


@settings(deadline=None)
@given(NODES, WANTED)
def test_no_node_is_promised_more_than_it_has(nodes, wanted) -> None:
    placed = place(*make(nodes, wanted))
    for node, placement in placed.items():
        if is_within(placement, nodes[node]):
            continue
        # Only by versions that fit on no node at all, and those have one node each.
        lonely = [each for each in placement.assignments if count(placed, each.model) == 1]
        rest = tuple(each for each in placement.assignments if each not in lonely)
        assert is_within(Placement(node=node, assignments=rest), nodes[node])
        assert lonely


def count(placed: dict[str, Placement], model: str) -> int:
    return sum(model in {a.model for a in each.assignments} for each in placed.values())


@settings(deadline=None)
@given(NODES, WANTED)
def test_every_model_is_placed_somewhere_and_never_too_often(nodes, wanted) -> None:
    placed = place(*make(nodes, wanted))
    for model, (_size, replicas, _may_page) in wanted.items():
        assert 1 <= count(placed, model) <= min(replicas, len(nodes))


@settings(deadline=None)
@given(NODES, WANTED)
def test_with_room_enough_memory_changes_nothing(nodes, wanted) -> None:
    roomy = place(*make(dict.fromkeys(nodes, 10_000), wanted))
    assert roomy == place(*make(dict.fromkeys(nodes), wanted))


@settings(deadline=None)
@given(NODES, WANTED, st.sampled_from("abcdefgh"), st.integers(0, 20), st.booleans())
def test_a_newcomer_displaces_nobody(nodes, wanted, newcomer, size, may_page) -> None:
    without = {model: each for model, each in wanted.items() if model != newcomer}
    given_nodes, deployments = make(nodes, without)
    before = place(given_nodes, deployments)
    if not all(is_within(each, nodes[node]) for node, each in before.items()):
        return
    ready = {
        node: frozenset((a.model, a.spec.version) for a in each.assignments)
        for node, each in before.items()
    }
    settled = [replace(node, ready=ready[node.id]) for node in given_nodes]
    best = place(settled, deployments)
    added = [*deployments, deployment(newcomer, size, may_page=may_page)]
    after = place(settled, added)
    for node, placement in best.items():
        kept = {a.model for a in placement.assignments} & {
            a.model for a in before[node].assignments
        }
        at_home = {m for m in kept if is_at_home(m, node, settled, deployments)}
        assert at_home <= {a.model for a in after[node].assignments}


def is_at_home(model: str, node: str, nodes: list[Node], deployments: list[Deployment]) -> bool:
    """Whether the node is one of the model's best, memory aside."""
    unlimited = place([Node(each.id) for each in nodes], deployments)
    return model in {each.model for each in unlimited[node].assignments}


def test_versions_that_may_be_paged_share_what_the_others_leave() -> None:
    nodes = [Node("only", memory_bytes=100)]
    paged = [deployment(name, 60, may_page=True) for name in "abc"]
    placed = place(nodes, [*paged, deployment("fixed", 40)])["only"]
    assert {each.model for each in placed.assignments} == {"a", "b", "c", "fixed"}
    assert sum(each.may_page for each in placed.assignments) == 3


def test_a_version_that_fits_nowhere_goes_where_it_will_be_told_what_is_missing() -> None:
    nodes = [Node("small", memory_bytes=10), Node("large", memory_bytes=50)]
    placed = place(nodes, [deployment("huge", 99, replicas=2), deployment("tiny", 45)])
    assert {a.model for a in placed["large"].assignments} == {"huge", "tiny"}
    assert placed["small"].assignments == ()


def test_a_version_that_a_node_has_to_refuse_goes_where_there_is_room() -> None:
    nodes = [Node("first", memory_bytes=100), Node("second", memory_bytes=200)]
    wanted = [deployment("m", 90)]
    (best,) = (name for name, each in place(nodes, wanted).items() if each.assignments)
    smaller = [replace(each, memory_bytes=100 if each.id == best else 200) for each in nodes]
    counted = {("m", 1): Count(digest="0" * 64, needs_bytes=120)}
    for _ in range(2):  # and stays there, though the best one has it no more
        (other,) = (
            name for name, each in place(smaller, wanted, counted).items() if each.assignments
        )
        assert other != best
    of_other_content = {("m", 1): Count(digest="1" * 64, needs_bytes=120)}
    assert place(smaller, wanted, of_other_content)[best].assignments


def test_a_change_of_paging_alone_holds_a_version_once() -> None:
    nodes = [
        Node("a", ready=frozenset({("m", 1)}), memory_bytes=100),
        Node("b", memory_bytes=100),
    ]
    before = place(nodes, [deployment("m", 10, replicas=2)])
    wanted = place(nodes, [deployment("m", 10, replicas=2, may_page=True)])
    kept = keep_until_replaced(wanted, before, nodes)
    assert [len(each.assignments) for each in kept.values()] == [1, 1]
    assert all(each.assignments[0].may_page for each in kept.values())


def test_a_node_s_capacity_comes_from_its_instance() -> None:
    def read(**meta: str) -> int | None:
        (node,) = read_nodes([Instance("i", "inference", "127.0.0.1", 1, meta=meta)])
        return node.memory_bytes

    assert read(memory_bytes="12345") == 12345
    assert read() is None
    assert read(memory_bytes="lots") is None


def test_the_estimate_is_near_what_known_models_take() -> None:
    def language_model(
        format_: str, path: str, size_bytes: int, backend: str = "auto", **generation
    ) -> int:
        manifest = Manifest.model_validate(
            {
                "name": "m",
                "task": "text-generation",
                "format": format_,
                "backend": backend,
                "generation": generation,
            }
        )
        file = ArtefactFile(path=path, digest="0" * 64, size_bytes=size_bytes)
        readme = ArtefactFile(path="README.md", digest="0" * 64, size_bytes=10**12)
        return estimate_bytes(
            VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=(file, readme))
        )

    small = language_model("gguf", "m.gguf", 97_000_000, slots=8, max_context_tokens=2048)
    assert 0.8 < small / (152e6 + 755e6) < 1.5  # SmolLM2-135M, Q4_1
    torch = language_model("gguf", "m.gguf", 97_000_000, "torch", slots=8, max_context_tokens=2048)
    assert 0.8 < torch / (538e6 + 755e6) < 1.5  # the same, and no int8 there
    large = language_model(
        "transformers", "m.safetensors", 16_060_000_000, slots=4, max_context_tokens=4096
    )
    assert 0.9 < large / (9.3e9 + 4.3e9) < 1.5  # Llama 3.1 8B, bfloat16


def graph_of(*names: str, **manifest) -> VersionSpec:
    """An ONNX model with files of these names, of 10 bytes each."""
    described = Manifest(name="m", task="tensor", format="onnx", **manifest)
    files = tuple(ArtefactFile(path=name, digest="0" * 64, size_bytes=10) for name in names)
    return VersionSpec(version=1, digest="0" * 64, manifest=described, files=files)


def test_a_graph_s_weights_count_whatever_their_files_are_called() -> None:
    assert estimate_bytes(graph_of("model.onnx", "model.onnx_data")) == 20
    assert estimate_bytes(graph_of("model.onnx", "onnx__MatMul_123", "encoder.bias")) == 30


def test_an_encoder_s_files_for_other_libraries_do_not_count() -> None:
    names = "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "openvino/openvino.bin"
    described = Manifest(name="m", task="text-embedding", format="sentence-transformers")
    assert estimate_bytes(graph_of(*names).model_copy(update={"manifest": described})) == 10


def test_instances_count_each_where_they_cannot_share_their_weights() -> None:
    def estimate(backend: str) -> int:
        return estimate_bytes(graph_of("model.onnx", backend=backend, instances=3))

    names = "auto", "onnxruntime", "torch", "openvino", "tensorrt"
    assert [estimate(name) for name in names] == [10, 10, 10, 30, 30]
