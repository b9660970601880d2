"""Routes of the mesh listener: from the model that a call names to the version that answers.

A model is asked for as `m` (its traffic divides over the deployment's targets, and one affinity
always meets the same version), `m@3` or `m@champion`. Each reference has four rules, because calls
differ in what may be repeated and for how long they may take:

* `ModelInfer`: repeated on another node; no time limit but the caller's deadline, because computing
  takes as long as it takes;
* `Generate` and `ModelStreamInfer`: likewise, until the first byte has gone out;
* everything else asks about a model and answers at once: a slow try is given up.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any

from mesh.controlplane.resources.cluster import CONFIG
from mesh.controlplane.xds.messages import Spec, typed
from mesh.deployment import Deployment
from mesh.errors import DETAILS_KEY, ModelNotFound, error_to_status

MODEL = "x-ringmesh-model"
VERSION = "x-ringmesh-version"
AFFINITY = "x-ringmesh-affinity"
SESSION = "x-session-id"

MESH_ROUTES = "mesh"
INFERENCE_PATHS = ("/inference.GRPCInferenceService/ModelInfer",)
STREAM_PATHS = (
    "/ringmesh.node.v1.Node/Generate",
    "/inference.GRPCInferenceService/ModelStreamInfer",
)
RETRY_ON = (
    "connect-failure",
    "refused-stream",
    "unavailable",
    "cancelled",
    "reset",
    "reset-before-request",
)
QUESTION_TRY = "5s"
"""Long: a node that computes hard answers late, and a try given up counts against it."""
CONFIG_PATHS = "/ringmesh.config.v1.Config/"
REPLAY_BYTES = 64 * 1024 * 1024
"""Requests up to the largest message are kept until a node has answered, to be sent to another."""

Share = tuple[int, int]
"""A version and its weight."""


def mesh_routes(deployments: Iterable[Deployment]) -> Spec:
    """All routes of the mesh listener."""
    routes = [
        rule
        for deployment in sorted(deployments, key=lambda each: each.model)
        for reference, shares in _references(deployment)
        for rule in _rules(deployment.model, reference, shares)
    ]
    host = {"name": "models", "domains": ["*"], "routes": [*routes, _config(), _unknown_model()]}
    return {"name": MESH_ROUTES, "validate_clusters": False, "virtual_hosts": [host]}


def _config() -> Spec:
    """The config service, for a gateway that is asked to change settings."""
    return {
        "name": CONFIG_PATHS,
        "match": {"prefix": CONFIG_PATHS, "grpc": {}},
        "route": {"cluster": CONFIG, **unlimited()},
    }


def cluster_name(model: str, version: int) -> str:
    """The cluster of a model version: also the tag that its nodes carry."""
    return f"{model}@{version}"


def set_header(key: str, value: str) -> Spec:
    """Adds a header in place of whatever the other side sent under this name."""
    return {
        "header": {"key": key, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def unlimited() -> Spec:
    """No limit on a call but its own deadline (`grpc-timeout`)."""
    return {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}


def previous_hosts() -> Spec:
    """Another try goes to another host: the hash alone would find the dead one again."""
    name = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    predicate = {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": typed(name)}
    return {"retry_host_predicate": [predicate], "host_selection_retry_max_attempts": 20}


def _references(deployment: Deployment) -> Iterator[tuple[str, list[Share]]]:
    model = deployment.model
    targets = [(each.version, each.weight) for each in deployment.targets if each.weight > 0]
    yield model, sorted(targets)
    for version in sorted(deployment.versions):
        yield f"{model}@{version}", [(version, 1)]
    for alias, version in sorted(deployment.aliases.items()):
        yield f"{model}@{alias}", [(version, 1)]


def _rules(model: str, reference: str, shares: list[Share]) -> Iterator[Spec]:
    def rule(match: Spec, **action: Any) -> dict[str, Any]:
        wanted = {"name": MODEL, "string_match": {"exact": reference}}
        return {
            "name": reference,
            "match": {**match, "headers": [wanted]},
            "route": {
                **_destination(model, shares),
                "hash_policy": _hash_policy(),
                "retry_policy": _retry_policy(),
                "idle_timeout": "0s",
                **unlimited(),
                **action,
            },
        }

    for path in INFERENCE_PATHS:
        yield {**rule({"path": path}), "request_body_buffer_limit": REPLAY_BYTES}
    for path in STREAM_PATHS:
        yield rule({"path": path})
    yield rule({"prefix": "/"}, retry_policy={**_retry_policy(), "per_try_timeout": QUESTION_TRY})


def _destination(model: str, shares: list[Share]) -> Spec:
    clusters = [
        {
            "name": cluster_name(model, version),
            "weight": weight,
            "request_headers_to_add": [set_header(VERSION, str(version))],
        }
        for version, weight in shares
    ]
    return {"weighted_clusters": {"clusters": clusters, "use_hash_policy": True}}


def _hash_policy() -> list[Spec]:
    return [{"header": {"header_name": name}, "terminal": True} for name in (AFFINITY, SESSION)]


def _retry_policy() -> Spec:
    return {
        "retry_on": ",".join(RETRY_ON),
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
        **previous_hosts(),
    }


def _unknown_model() -> Spec:
    error = ModelNotFound("")
    error.message = "no model is deployed under this name, version or alias"
    error.metadata = {}
    details = base64.b64encode(error_to_status(error).SerializeToString()).decode().rstrip("=")
    return {
        "name": "unknown model",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": error.message}},
        "response_headers_to_add": [
            set_header("grpc-status", str(error.code.value[0])),
            set_header("grpc-message", error.message),
            set_header(DETAILS_KEY, details),
        ],
    }
