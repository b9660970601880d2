"""Every variable is known, described, and told apart from what merely looks like one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.controlplane.topology import ControlplaneSettings
from mesh.local.environment import DECIDED, HANDED_ON, KNOWN, PREFIX, find_strays
from mesh.settings import ServiceSettings
from services.config.settings import ConfigSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import NodeSettings
from services.registry.settings import RegistrySettings

SERVICES = (ConfigSettings, ControlplaneSettings, GatewaySettings, NodeSettings, RegistrySettings)
PAGE = Path(__file__).parents[3] / "docs" / "running.md"


def variables_of(settings: type[ServiceSettings]) -> set[str]:
    """What pydantic reads for it under our prefix."""
    own = {f"{PREFIX}{name.upper()}" for name in settings.model_fields}
    return own - {f"{PREFIX}OTLP_ENDPOINT"}  # which has OpenTelemetry's name


def test_every_setting_of_every_service_is_known() -> None:
    read = set().union(*map(variables_of, SERVICES))
    assert read <= KNOWN | DECIDED
    assert read >= HANDED_ON


def test_every_variable_that_a_user_may_set_is_described() -> None:
    table = PAGE.read_text().split("## Environment")[1].split("\n## ")[0]
    described = set(re.findall(rf"`({PREFIX}[A-Z_]+)`", table))
    unnamed = {f"{PREFIX}CONSUL_ADDRESS", f"{PREFIX}OTLP_ENDPOINT"}  # described by other names
    assert described == KNOWN - unnamed


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RINGMESH_EGDE_PORT", "did you mean RINGMESH_EDGE_PORT?"),
        ("RINGMESH_NODE", "did you mean RINGMESH_NODES?"),
        ("RINGMESH_MEMORY_BUDGET", "did you mean RINGMESH_MEMORY_BUDGET_BYTES?"),
        ("RINGMESH_EDGE_ADRESS", "did you mean RINGMESH_EDGE_ADDRESS? That one is decided by"),
        ("RINGMESH_LISTEN", "`ringmesh up` decides it"),
        ("RINGMESH_EDGE_ADDRESS", "`ringmesh up` decides it"),
        ("RINGMESH_FLUX", "docs/running.md lists"),
    ],
)
def test_what_changes_nothing_is_told_by_name(name: str, hint: str) -> None:
    (told,) = find_strays({name: "1", "PATH": "/bin", "RINGMESH_NODES": "3"})
    assert told.startswith(f"{name} changes nothing")
    assert hint in told


def test_what_is_known_is_not_told_of() -> None:
    assert find_strays(dict.fromkeys((*KNOWN, "RINGMESH_SOAK_REQUESTS"), "1")) == []
