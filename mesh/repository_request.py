"""What a request to load or unload a model by hand may say: pure, the same for gateway and node.

Versions are immutable and deployments are the registry's business, so the parameters with which
Triton changes a model while loading it are refused by name.
"""

from __future__ import annotations

from typing import Any

from mesh.errors import InvalidArgument, NotFound, Unimplemented

_HARMLESS = ("unload_dependents",)
"""No model here depends on another."""


def check_repository_request(request: Any) -> None:
    """Refuses what cannot be done; of a `RepositoryModelLoadRequest` or `...UnloadRequest`.

    Raises:
        InvalidArgument: no model is named.
        NotFound: a repository by a name; there is one, and it has none.
        Unimplemented: a parameter that would change the model.
    """
    if not request.model_name:
        raise InvalidArgument("model_name: the name of a model is missing", field="model_name")
    if request.repository_name:
        raise NotFound(f"there is no repository {request.repository_name[:80]!r}; leave it empty")
    for name in request.parameters:
        if name not in _HARMLESS:
            raise Unimplemented(
                f"parameters.{name[:80]}: a published version does not change; "
                "publish another one and deploy that"
            )
