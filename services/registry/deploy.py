"""From what was asked to serve to the document that the mesh follows. Pure.

A target may name an alias; it is resolved here, each time anything changes, so that moving the
alias moves the traffic.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from mesh.deployment import Deployment, TargetSpec, VersionSpec
from mesh.errors import FailedPrecondition, InvalidArgument, ModelNotFound
from services.registry.records import DeploymentRecord, ModelRecord, Target

DEFAULT_REPLICAS = 2
MAX_REPLICAS = 1000
MAX_TARGETS = 64
MAX_WEIGHT = 1_000_000
MAX_DOCUMENT_BYTES = 512 * 1024
"""What Consul takes as one value."""


def check_targets(targets: Sequence[Target]) -> None:
    """Refuses targets that no traffic could be divided over.

    Raises:
        InvalidArgument: naming the target.
    """
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise InvalidArgument(f"a deployment has 1 to {MAX_TARGETS} targets", field="targets")
    for index, target in enumerate(targets):
        if target.weight > MAX_WEIGHT:
            raise InvalidArgument(
                f"a weight is at most {MAX_WEIGHT}", field=f"targets[{index}].weight"
            )
    for selector, count in Counter(target.selector for target in targets).items():
        if count > 1:
            raise InvalidArgument(f"{selector} is a target twice", field="targets")
    total = sum(target.weight for target in targets)
    if total == 0:
        raise InvalidArgument("the weights add up to nothing", field="targets.weight")
    # Any of them may come to mean the same version when an alias moves; their sum must be a weight.
    if total > MAX_WEIGHT:
        raise InvalidArgument(
            f"the weights add up to {total}, at most {MAX_WEIGHT}", field="targets.weight"
        )


def check_replicas(replicas: int) -> int:
    """How many nodes should hold each version; 0 stands for the default."""
    if replicas > MAX_REPLICAS:
        raise InvalidArgument(f"there are at most {MAX_REPLICAS} replicas", field="replicas")
    return replicas or DEFAULT_REPLICAS


def resolve(model: ModelRecord, selector: int | str) -> int:
    """The version that a number or an alias stands for.

    Raises:
        ModelNotFound: with what there is instead.
    """
    if isinstance(selector, str):
        version = model.aliases.get(selector)
        if version is None:
            raise ModelNotFound(f"{model.name}@{selector}", _aliases_hint(model, selector))
        return version
    if selector not in model.versions:
        raise ModelNotFound(f"{model.name}@{selector}", f"the newest is {model.versions[-1]}")
    return selector


def needed_versions(record: DeploymentRecord, model: ModelRecord) -> frozenset[int]:
    """The versions that must be loaded: those with traffic, and those that an alias names."""
    targets = {resolve(model, target.selector) for target in record.targets}
    return frozenset(targets | set(model.aliases.values()))


def build_deployment(
    record: DeploymentRecord, model: ModelRecord, specs: Mapping[int, VersionSpec]
) -> Deployment:
    """The document for the mesh; `specs` are those of `needed_versions`.

    Raises:
        FailedPrecondition: it would be larger than Consul takes.
    """
    deployment = Deployment(
        model=record.model,
        revision=record.revision,
        replicas=record.replicas,
        may_page=record.may_page,
        targets=tuple(TargetSpec(version=v, weight=w) for v, w in _shares(record, model)),
        aliases=dict(sorted(model.aliases.items())),
        versions=dict(sorted(specs.items())),
    )
    if len(deployment.to_json()) > MAX_DOCUMENT_BYTES:
        raise FailedPrecondition(
            f"{len(specs)} versions of {record.model} with all their files are more than can be "
            "published at once; delete aliases that are no longer needed"
        )
    return deployment


def is_named(record: DeploymentRecord, alias: str) -> bool:
    """Whether the deployment sends traffic to whatever the alias names."""
    return any(target.selector == alias for target in record.targets)


def _shares(record: DeploymentRecord, model: ModelRecord) -> list[tuple[int, int]]:
    """Versions with their weights; two targets that mean the same version are one."""
    weights: dict[int, int] = {}
    for target in record.targets:
        version = resolve(model, target.selector)
        weights[version] = weights.get(version, 0) + target.weight
    return sorted(weights.items())


def _aliases_hint(model: ModelRecord, wanted: str) -> str:
    near = difflib.get_close_matches(wanted, list(model.aliases), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    known = ", ".join(sorted(model.aliases)[:10])
    return f"its aliases are {known}" if known else "it has no aliases"
