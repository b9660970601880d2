"""Which models there are, and whether somebody can answer for them: a pure view.

Built from the deployments (what should be served) and the inference instances (what is ready).
It knows neither Consul nor Envoy; the weights between versions are Envoy's business, so a reference
without a version is good as long as one of its targets is ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mesh.deployment import Deployment
from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady
from mesh.manifest import Manifest, Task
from mesh.reference import ModelReference, model_reference, version_selector

MAX_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class VersionState:
    """One deployed version, in the protocol's words for its state."""

    model: str
    version: int
    state: str
    reason: str

    @property
    def is_ready(self) -> bool:
        """Whether some node would answer."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True)
class Directory:
    """The deployments by model, and the nodes.

    `nodes` are the addresses of all that are up, by name; `holders` those of the nodes that have a
    version (`minilm@3`) ready.
    """

    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    holders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> frozenset[str]:
        """The versions that some node would answer for."""
        return frozenset(self.holders)

    def resolve(self, reference: ModelReference) -> Manifest:
        """The manifest of what will answer.

        Raises:
            ModelNotFound: no such model, version or alias.
            ModelNotReady: it is deployed, but no node has it ready.
        """
        states = self.states(reference)
        ready = next((state for state in states if state.is_ready), None)
        if ready is None:
            raise ModelNotReady(str(reference), states[0].state, states[0].reason)
        return self.deployments[reference.name].versions[ready.version].manifest

    def states(self, reference: ModelReference) -> tuple[VersionState, ...]:
        """The state of each version that the reference may lead to; never empty."""
        deployment = self.deployments.get(reference.name)
        if deployment is None:
            raise ModelNotFound(str(reference), _hint("models", self.deployments))
        versions = _versions(deployment, reference)
        return tuple(self._state(reference.name, version) for version in versions)

    def all_versions(self, reference: ModelReference) -> tuple[VersionState, ...]:
        """The state of each version that the reference covers, without one all of the model's."""
        states = self.states(reference)
        if str(reference) != reference.name:
            return states
        return tuple(state for state in self.all_states() if state.model == reference.name)

    def manifest(self, reference: ModelReference) -> Manifest:
        """The manifest of a model that exists, whether or not it is ready."""
        first = self.states(reference)[0]
        return self.deployments[reference.name].versions[first.version].manifest

    def all_states(self) -> Iterator[VersionState]:
        """Every deployed version of every model, in order."""
        for model, deployment in sorted(self.deployments.items()):
            for version in sorted(deployment.versions):
                yield self._state(model, version)

    def _state(self, model: str, version: int) -> VersionState:
        if f"{model}@{version}" in self.holders:
            return VersionState(model, version, "READY", "")
        if not self.nodes:
            return VersionState(model, version, "UNAVAILABLE", "no inference node is up")
        why = f"no node has it ready; the repository index and `ringmesh show {model}` say why"
        return VersionState(model, version, "LOADING", why)


def parse_reference(
    name: str, version: str = "", *, field: str = "model", version_field: str = "version"
) -> ModelReference:
    """The model that a caller names, with the version in the name, in a field of its own, or none.

    Raises:
        InvalidArgument: no name at all, or two different versions.
        ModelNotFound: a name that no model can have.
    """
    if not name:
        raise InvalidArgument(f"{field}: a model name is missing", field=field)
    try:
        reference = model_reference(name, field=field)
    except InvalidArgument as error:
        raise ModelNotFound(name[:80], error.message) from None
    if not version:
        return reference
    chosen = version_selector(version, field=version_field)
    if chosen in (reference.version, reference.alias):
        return reference
    if str(reference) != reference.name:
        raise InvalidArgument(
            f"the name says {str(reference)!r} and the version {version!r}; give one of them",
            field=version_field,
        )
    if isinstance(chosen, int):
        return ModelReference(reference.name, version=chosen)
    return ModelReference(reference.name, alias=chosen)


def require_task(reference: ModelReference, manifest: Manifest, task: Task) -> None:
    """Refuses a model that exists and cannot do this."""
    if manifest.task != task:
        raise InvalidArgument(
            f"model '{reference}' serves {manifest.task}, not {task}", field="model"
        )


def _versions(deployment: Deployment, reference: ModelReference) -> tuple[int, ...]:
    if reference.version is not None:
        if reference.version not in deployment.versions:
            raise ModelNotFound(str(reference), _hint("deployed versions", deployment.versions))
        return (reference.version,)
    if reference.alias is not None:
        if reference.alias not in deployment.aliases:
            raise ModelNotFound(str(reference), _hint("aliases", deployment.aliases))
        return (deployment.aliases[reference.alias],)
    targets = sorted(deployment.targets, key=lambda target: -target.weight)
    return tuple(target.version for target in targets if target.weight)


def _hint(what: str, names: Iterable[str | int]) -> str:
    known = [str(name) for name in sorted(names, key=str)]
    if not known:
        return f"there are no {what}"
    more = ", ..." if len(known) > MAX_NAMES_SHOWN else ""
    return f"{what}: {', '.join(known[:MAX_NAMES_SHOWN])}{more}"
