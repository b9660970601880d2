from mesh.deployment import Deployment
from mesh.local.consul_view import InstanceState, ModelState, list_model_states
from mesh.manifest import Manifest

MANIFEST = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")


def make_node(name: str, status: str, *tags: str) -> InstanceState:
    return InstanceState(
        f"inference-{name}", "inference", "127.0.0.1:1", status, tags, {"node": name}
    )


def test_ready_is_what_a_passing_node_says_it_has() -> None:
    version = {"digest": "0" * 64, "manifest": MANIFEST.model_dump(), "files": ()}
    deployment = Deployment.model_validate(
        {
            "model": "minilm",
            "revision": 1,
            "replicas": 2,
            "targets": [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}],
            "aliases": {},
            "versions": {number: {"version": number, **version} for number in (1, 2)},
        }
    )
    instances = [
        make_node("a", "passing", "minilm@1", "minilm@2"),
        make_node("b", "passing", "minilm@1"),
        make_node("c", "critical", "minilm@1", "minilm@2"),
    ]
    assert list_model_states([deployment], instances) == [
        ModelState("minilm", 1, 90, 2, ("a", "b")),
        ModelState("minilm", 2, 10, 2, ("a",)),
    ]
