"""Which of the node's versions a request means: pure.

A version may stand in the model's name (`minilm@3`), in a field of its own, or in the header that
the mesh's route has added; the first that is there counts. An alias means something to the routes
only, which have turned it into that header by the time a request gets here.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady
from mesh.reference import ModelReference, model_reference, version_selector
from services.inference.models.state import ModelState, ModelStatus


def requested_version(name: str, version: str, routed: str | None) -> tuple[str, int | None]:
    """The model and version that a request names; None where it names no version.

    Raises:
        InvalidArgument: no name, two different versions, or a version that cannot be one.
        ModelNotFound: a name that no model can have, or an alias that no route has resolved.
    """
    if not name:
        raise InvalidArgument("model_name: the name of a model is missing", field="model_name")
    reference = _reference(name)
    selector = _selector(reference, version)
    if isinstance(selector, int):
        return reference.name, selector
    if routed:
        return reference.name, int(version_selector(routed, field="x-ringmesh-version"))
    if selector is not None:
        raise ModelNotFound(
            f"{reference.name}@{selector}", "a node knows no aliases; ask through the mesh"
        )
    return reference.name, None


def choose_version(statuses: Iterable[ModelStatus], model: str, version: int | None) -> ModelStatus:
    """The ready version that answers: the one asked for, else the newest.

    Raises:
        ModelNotFound: this node has never held such a version.
        ModelNotReady: it holds it, and cannot answer with it now.
    """
    known = [each for each in statuses if each.model == model and version in (None, each.version)]
    if not known:
        raise ModelNotFound(model if version is None else f"{model}@{version}")
    best = max(known, key=_preference)
    if best.state is not ModelState.READY:
        raise ModelNotReady(best.reference, best.state.name, best.reason)
    return best


def _preference(status: ModelStatus) -> tuple[bool, bool, int]:
    is_gone = status.state is ModelState.UNLOADED
    return status.state is ModelState.READY, not is_gone, status.version


def _reference(name: str) -> ModelReference:
    try:
        return model_reference(name, field="model_name")
    except InvalidArgument as error:
        raise ModelNotFound(name[:80], error.message) from None


def _selector(reference: ModelReference, version: str) -> int | str | None:
    named = reference.version if reference.version is not None else reference.alias
    if not version:
        return named
    try:
        asked = version_selector(version, field="model_version")
    except InvalidArgument as error:
        raise InvalidArgument(f"model_version: {error.message}", field="model_version") from None
    if named not in (None, asked):
        raise InvalidArgument(
            f"model_version: {version!r} is asked for, but the name says {str(reference)!r}",
            field="model_version",
        )
    return asked
