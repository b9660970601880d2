"""The registry's rules: what may be asked, and what each change does, a transaction each.

Whatever changes what should serve gives the deployment a new revision in the same transaction, so
that a reader never sees one without the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from mesh.deployment import Deployment
from mesh.errors import FailedPrecondition, ModelNotFound, NotFound
from services.registry.artefact import Artefact
from services.registry.deploy import (
    build_deployment,
    check_replicas,
    check_targets,
    is_named,
    needed_versions,
    resolve,
)
from services.registry.records import DeploymentRecord, ModelRecord, Target, VersionRecord
from services.registry.storage.ledger import Ledger


def find_model(ledger: Ledger, name: str) -> ModelRecord:
    """The model; raises `ModelNotFound` with the name that was perhaps meant."""
    model = ledger.model(name)
    if model is None:
        raise _no_model(ledger, name)
    return model


def find_version(ledger: Ledger, name: str, selector: int | str | None) -> VersionRecord:
    """The version that a number or an alias stands for; the newest for None."""
    model = find_model(ledger, name)
    number = model.versions[-1] if selector is None else resolve(model, selector)
    found = ledger.version(name, number)
    if found is None:
        raise ModelNotFound(f"{name}@{number}")
    return found


def find_deployment(ledger: Ledger, name: str) -> DeploymentRecord:
    """The model's deployment; raises `NotFound` where nothing should serve."""
    find_model(ledger, name)
    record = ledger.deployment(name)
    if record is None or record.is_deleted:
        raise NotFound(f"model '{name}' is not deployed")
    return record


def create_version(
    ledger: Ledger, artefact: Artefact, description: str, now_unix_ms: int
) -> VersionRecord:
    """The version that has this artefact: the one that is there, or the model's next."""
    name, task = artefact.manifest.name, artefact.manifest.task
    model = ledger.lock_model(name) or ledger.add_model(name, task)
    if model.task != task:
        raise FailedPrecondition(
            f"all versions of '{name}' are for {model.task}; a model for {task} needs another name"
        )
    known = ledger.version_of_digest(name, artefact.digest)
    return known or ledger.add_version(name, artefact, description, now_unix_ms)


def set_alias(ledger: Ledger, name: str, alias: str, version: int) -> ModelRecord:
    """Points the alias at the version; what the deployment serves moves with it."""
    model = _locked(ledger, name)
    resolve(model, version)
    if model.aliases.get(alias) == version:
        return model
    ledger.put_alias(name, alias, version)
    return _redeployed(ledger, name)


def delete_alias(ledger: Ledger, name: str, alias: str) -> ModelRecord:
    """Forgets the alias, unless traffic follows it."""
    model = _locked(ledger, name)
    resolve(model, alias)
    record = ledger.deployment(name)
    if record is not None and is_named(record, alias):
        raise FailedPrecondition(
            f"the deployment of '{name}' sends traffic to '{alias}'; deploy something else first"
        )
    ledger.remove_alias(name, alias)
    return _redeployed(ledger, name)


def set_deployment(
    ledger: Ledger,
    name: str,
    targets: Sequence[Target],
    replicas: int,
    *,
    may_page: bool = False,
) -> DeploymentRecord:
    """Says what should serve; what is asked already keeps its revision."""
    check_targets(targets)
    replicas = check_replicas(replicas)
    model = _locked(ledger, name)
    for target in targets:
        resolve(model, target.selector)
    known = ledger.deployment(name)
    asked = DeploymentRecord(name, 0, replicas, tuple(targets), may_page)
    if known is not None and replace(known, revision=0) == asked:
        return known
    record = ledger.put_deployment(name, replicas, targets, may_page=may_page)
    _document(ledger, record, model)
    return record


def delete_deployment(ledger: Ledger, name: str) -> None:
    """Says that nothing of the model should serve."""
    _locked(ledger, name)
    record = find_deployment(ledger, name)
    ledger.put_deployment(name, record.replicas, (), may_page=record.may_page)


def wanted_documents(ledger: Ledger, name: str | None = None) -> dict[str, Deployment | None]:
    """What the mesh should be told, by model; None: that nothing of it should serve."""
    one = [ledger.deployment(name)] if name is not None else ledger.deployments()
    return {
        record.model: None
        if record.is_deleted
        else _document(ledger, record, find_model(ledger, record.model))
        for record in one
        if record is not None
    }


def _locked(ledger: Ledger, name: str) -> ModelRecord:
    model = ledger.lock_model(name)
    if model is None:
        raise _no_model(ledger, name)
    return model


def _redeployed(ledger: Ledger, name: str) -> ModelRecord:
    """The model after its aliases changed, with a new revision of what serves."""
    model = find_model(ledger, name)
    record = ledger.deployment(name)
    if record is not None and not record.is_deleted:
        renewed = ledger.put_deployment(
            name, record.replicas, record.targets, may_page=record.may_page
        )
        _document(ledger, renewed, model)
    return model


def _document(ledger: Ledger, record: DeploymentRecord, model: ModelRecord) -> Deployment:
    """The document, which must be possible before a change is committed."""
    specs = ledger.specs(record.model, needed_versions(record, model))
    return build_deployment(record, model, specs)


def _no_model(ledger: Ledger, name: str) -> ModelNotFound:
    known = [model.name for model in ledger.models()]
    near = difflib.get_close_matches(name, known, n=1)
    return ModelNotFound(name, f"did you mean {near[0]!r}?" if near else "")
